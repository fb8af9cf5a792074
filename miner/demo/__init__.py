"""The whole product once, on this machine."""
