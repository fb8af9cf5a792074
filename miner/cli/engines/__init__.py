"""`cascade engines`."""
