"""How a training keeps its machine busy: what is made ahead, in which precision, and in parts of which size."""
