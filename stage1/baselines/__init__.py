"""The rules that the certified one is compared with."""
