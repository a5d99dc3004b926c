"""Training of the miniature's models: `python -m bench.mini.training` reproduces all of them from scratch."""
