"""What only a GPU can show, in three commands that need no network; see `scripts/on_gpu`."""
