"""What validators did to pictures before they sent them, in one place and without torch."""
