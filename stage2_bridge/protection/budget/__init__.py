"""How much Stage-2 may be asked, and for which images that is spent."""
