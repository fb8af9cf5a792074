"""What the test rows say of a policy and of a training."""
