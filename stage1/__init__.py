"""What Stage-1 is: outputs, decisions, policies, conformal maths, metrics and the model."""
