"""Baseline records against candidate records: what a change of code did to images, quality and cost."""
