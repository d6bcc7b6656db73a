"""The images: found or downloaded, verified, decoded, split, varied."""
