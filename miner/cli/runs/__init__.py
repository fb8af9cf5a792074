"""`cascade runs`: what nights came to, and what is kept of them."""
