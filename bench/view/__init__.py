"""A local server that lists the runs below a directory and shows their progress and reports."""
