"""`cascade harvest`."""
