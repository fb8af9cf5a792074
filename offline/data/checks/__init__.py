"""What is wrong with images, and which of them are alike."""
