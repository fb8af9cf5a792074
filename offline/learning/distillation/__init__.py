"""Training by what a teacher says of pictures."""
