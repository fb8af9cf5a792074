"""What a miner tells from afar, each event provoked in a real one."""
