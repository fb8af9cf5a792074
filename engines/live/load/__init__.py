"""How a bundle comes into this process: checked, tried, compiled where it must be, compared with its golden outputs."""
