"""How good a classifier, its confidence and its probabilities are, with intervals."""
