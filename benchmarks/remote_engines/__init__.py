"""Stage-1 that servers compute, measured on real ones."""
