"""Which pooling finds small things: a probe on the frozen patches of a pretrained backbone."""
