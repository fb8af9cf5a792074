"""The subnet's reference miner: its flags and variables, its registration with NATIX, its registry of detectors."""
