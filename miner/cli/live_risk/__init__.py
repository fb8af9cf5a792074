"""`cascade risk` and `cascade plan --monitor`."""
