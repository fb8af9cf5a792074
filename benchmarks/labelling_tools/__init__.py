"""The harvest's way to people and back, through the real packages that they label with."""
