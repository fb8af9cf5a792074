"""Who is told from afar that a miner needs a person: conditions, when they begin and end, and where that is sent."""
