"""Running cells: here generate, measure, features and store meet."""
