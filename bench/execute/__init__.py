"""Running cells: the one place where generate, measure, score and store meet."""
