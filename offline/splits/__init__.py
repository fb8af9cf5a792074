"""Which row is in which set, for ever."""
