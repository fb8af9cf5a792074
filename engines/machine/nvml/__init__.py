"""The health of the GPUs as NVIDIA's management library tells it, asked in a process of its own."""
