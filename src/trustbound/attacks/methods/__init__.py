"""The attacks, one idea a file: numbers, `init` and `step`. What they share, `attacks/searching.py` owns."""
