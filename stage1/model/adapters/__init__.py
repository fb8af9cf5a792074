"""What is put on a backbone to train a part of it."""
