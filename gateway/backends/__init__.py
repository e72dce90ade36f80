"""Ways to reach an expert."""
