"""A training on several processes, one a device, as `torchrun` starts them."""
