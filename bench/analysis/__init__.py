"""Scores and claims from records alone: numpy, no torch."""
