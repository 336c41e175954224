"""How fast a network's outputs can change: Lipschitz constants from above and below, and CLEVER's estimate."""
