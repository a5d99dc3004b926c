"""Features of images: every network that reads images."""
