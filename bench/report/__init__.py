"""Reports: tables, plots, image grid and page, made from records alone."""
