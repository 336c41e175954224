"""Attacks that climb the gradient of a loss inside the set."""
