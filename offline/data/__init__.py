"""Labelled and unlabelled images: where they come from, and what is wrong with them."""
