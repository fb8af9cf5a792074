"""What touches a disk that may hang: on threads of its own, and what was read of it last."""
