"""The live miner: axon, cascade, monitoring, nightly job, command line."""
