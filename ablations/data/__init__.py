"""Data sets: found or downloaded, verified, decoded, split and augmented."""
