"""What is under test: wrapping, loading, the zoo, exactly known models, defences.

Importing this package stays cheap: torch is imported when one of the names below is first used.
`wrap` is not among them, because the file `model/wrapping.py` has that name here: it is `trustbound.wrap`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trustbound.lazy import lazy

if TYPE_CHECKING:
    from trustbound.model.defences.ablated import ablate
    from trustbound.model.defences.adaptation import Adaptation
    from trustbound.model.defences.smoothed import smooth
    from trustbound.model.files.save import save_model
    from trustbound.model.load import load_model
    from trustbound.model.wrapping import Model
    from trustbound.model.zoo.build import build

__all__ = ["Adaptation", "Model", "ablate", "build", "load_model", "save_model", "smooth"]

_HOMES = {
    "Adaptation": "defences.adaptation",
    "Model": "wrapping",
    "ablate": "defences.ablated",
    "build": "zoo.build",
    "load_model": "load",
    "save_model": "files.save",
    "smooth": "defences.smoothed",
    "wrap": "wrapping",
}


__getattr__ = lazy(__name__, _HOMES)
