"""Training: data, optimisers, checkpoints."""
