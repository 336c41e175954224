"""Upper bounds: searches for inputs that break the model.

Importing this package stays cheap: torch is imported when one of the names below is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.attacks.attacking import attack, build
    from trustbound.attacks.searching.loop import Attack, AttackResult, search
    from trustbound.attacks.shared.fitting import fit_perturbation
    from trustbound.attacks.shared.perturbation import SharedAttack, SharedPerturbation

__all__ = [
    "Attack",
    "AttackResult",
    "SharedAttack",
    "SharedPerturbation",
    "attack",
    "build",
    "fit_perturbation",
    "search",
]

_HOMES = {
    "Attack": "searching.loop",
    "AttackResult": "searching.loop",
    "SharedAttack": "shared.perturbation",
    "SharedPerturbation": "shared.perturbation",
    "attack": "attacking",
    "build": "attacking",
    "fit_perturbation": "shared.fitting",
    "search": "searching.loop",
}


__getattr__ = lazy(__name__, _HOMES)
