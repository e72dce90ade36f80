"""HTTP routes, one file for each surface; thin: they parse nothing and decide nothing."""
