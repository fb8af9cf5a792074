"""How a language model is asked and read."""
