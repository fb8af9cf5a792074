"""Domain adaptation without labels."""
