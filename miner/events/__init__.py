"""What happens in a miner that a person may want to hear of, and who is told."""
