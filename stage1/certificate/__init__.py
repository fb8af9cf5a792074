"""What may be promised about an exit rule: risks, exact tests, the search for thresholds, `scrc_params.json`."""
