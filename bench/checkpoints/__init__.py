"""The checkpoints that an experiment needs: which, where they are, what their files say. No torch."""
