"""Defences: what an informed attacker does about one, and input defences as wrappers that declare it."""
