"""What stands between the cascade and its Stage-2 servers, under load: hedges, breakers, the budget, and their cost."""
