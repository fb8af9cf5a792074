"""What the benchmarks of the live miner share: callers with real keys, a client, a miner to ask, and its figures."""
