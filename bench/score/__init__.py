"""From images to features (the only torch here), and from features to scores (numpy only)."""
