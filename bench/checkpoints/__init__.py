"""Checkpoints of an experiment: which are needed, where they are stored, what their files declare. Imports no torch."""
