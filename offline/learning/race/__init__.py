"""Which recipe of training wins on held-out folds; nothing here imports torch."""
