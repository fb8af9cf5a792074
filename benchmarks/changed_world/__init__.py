"""From a world that changes to a new certificate: a miner, its callers, Stage-2, people, and two nights."""
