"""From images to features: every network that reads images."""
