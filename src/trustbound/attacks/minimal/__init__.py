"""Minimum-norm attacks: they seek the smallest change that succeeds."""
