"""Stage-1 that servers compute: each is checked by the golden images of a bundle before it may answer for it."""
