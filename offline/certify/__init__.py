"""From a trained network to an engine with a certificate."""
