"""How the miniature's models are made: `python -m bench.mini.training` reproduces all of them from nothing."""
