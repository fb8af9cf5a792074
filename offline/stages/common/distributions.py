"""Packages whose version decides what a stage makes, where several stages use the same ones."""

from __future__ import annotations

# They decode pictures and run a compiled engine on them.
FOR_JUDGEMENT = ("numpy", "pillow", "scipy", "simplejpeg")
FOR_TRAINING = (
    "torch",
    "transformers",
    "peft",
    "numpy",
    "pillow",
    "pytorch_optimizer",
    "scipy",
    "simplejpeg",
)
