"""What stands between the cascade and servers that fail."""
