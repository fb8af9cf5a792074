"""Following the store: which bundle is live, and what became of every other."""
