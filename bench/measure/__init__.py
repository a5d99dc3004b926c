"""Latency, memory and the machine they were measured on; clock and device are injected."""
