"""What is kept of pictures, so that a file is decoded once and no set is held in memory."""
