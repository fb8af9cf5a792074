"""Broken input against what a stranger reaches first: the HTTP server and its headers, bodies, and image files."""
