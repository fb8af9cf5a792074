"""Images that make the next night better: which are kept, how they go to people, and where their labels may go."""
