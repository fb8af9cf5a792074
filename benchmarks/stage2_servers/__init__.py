"""Stage-2 servers of other makers, and `cascade mine` in front of each kind of them."""
