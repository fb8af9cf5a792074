"""What is known of a Stage-2 server: its calibrator, its numbers, and what handing an image on to it is worth."""
