"""Architectures by name, one family a file; `build` makes one, `model/registry.py` lists them."""
