"""Real SDKs of validators against our axon: which answer each gets to everything that may arrive."""
