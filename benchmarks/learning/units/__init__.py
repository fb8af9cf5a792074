"""Single trainings: which there are, in what order, and what runs one."""
