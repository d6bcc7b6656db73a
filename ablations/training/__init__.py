"""Training and testing of a network, with checkpoints from which a training resumes bit for bit."""
