"""Ways of training Stage-1 side by side: on real photographs, and on synthetic scenes of a shifted domain."""
