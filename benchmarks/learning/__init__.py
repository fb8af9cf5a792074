"""Ways of training Stage-1 side by side."""
