"""Frozen data that all parts of the program exchange, and the errors that a user reads."""
