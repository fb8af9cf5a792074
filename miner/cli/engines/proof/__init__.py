"""`cascade engines prove`: what an engine computes on a machine, how fast, and on what, in one sealed file."""
