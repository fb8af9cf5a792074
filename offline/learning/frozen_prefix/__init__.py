"""What frozen blocks make of images, kept on disk."""
