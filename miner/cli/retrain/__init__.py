"""`cascade retrain`: the command, and what came of a night in words."""
