"""The way to Stage-2, which always comes back before the deadline."""
