"""What is kept of the runs of a workspace: a line for ever, and files as long as they can be needed."""
