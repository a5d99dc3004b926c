"""Latency, memory and the environment of their measurement; clock and device are injected."""
