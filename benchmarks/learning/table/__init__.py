"""What the answers of all trainings say."""
