"""What is trained and judged on: photographs of cities, and drawn scenes."""
