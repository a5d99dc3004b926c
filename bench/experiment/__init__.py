"""The experiment: from a configuration to a plan of cells."""
