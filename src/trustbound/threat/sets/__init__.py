"""Perturbation sets: what an adversary may change."""
