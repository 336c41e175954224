"""Model files: weights, programs, factories, and the file that trustbound writes itself."""
