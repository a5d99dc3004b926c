"""Scores of features, with their uncertainty. Needs numpy only."""
