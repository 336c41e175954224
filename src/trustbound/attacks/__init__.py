"""Upper bounds: searches for inputs that break the model."""

from trustbound.attacks.attack import attack, build
from trustbound.attacks.search import Attack, Found, search

__all__ = ["Attack", "Found", "attack", "build", "search"]
