"""Conformance compares a scheduler with the exact solution, without a network or images; verdicts are reproducible."""
