"""Data sets: download, verification, decoding, splits and augmentation."""
