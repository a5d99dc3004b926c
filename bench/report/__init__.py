"""What people look at: tables, plots, image grid and page, made from records alone."""
