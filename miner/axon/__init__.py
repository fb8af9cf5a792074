"""The axon: who may ask, in which protocol, on which port."""
