"""What a Stage-2 server or its settings can do wrong, and what becomes of a miner's answers."""
