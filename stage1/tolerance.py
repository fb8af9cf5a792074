"""How far apart two machines may be that run the same engine."""

from __future__ import annotations

# Largest difference of an output, in logits, where a backend says no other.
TOLERANCE = 1e-3
