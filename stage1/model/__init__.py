"""What the network is. The only room of `stage1` that loads torch."""
