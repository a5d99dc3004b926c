"""A scheduler against the exact solution: no network, no image, the same verdict on every machine."""
