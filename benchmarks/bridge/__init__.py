"""What the way to Stage-2 costs."""
