"""The nights of a miner: when they run, in what bounds, and what came of them."""
