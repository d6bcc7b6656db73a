"""A network is trained and tested, with a state on disk from which the training goes on bit for bit."""
