"""The chain: which hotkeys there are, and where this miner is found."""
