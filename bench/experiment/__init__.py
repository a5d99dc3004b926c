"""From a configuration to a plan of cells."""
