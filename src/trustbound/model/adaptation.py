"""What an attacker who knows the defence does about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from trustbound.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """What an attacker who knows the defence does about it, as plain data; the oracle reads it.

    Parameters
        stand_ins   module path → differentiable callable used in its place in the backward pass
                    (BPDA; Athalye, Carlini and Wagner 2018). The forward pass stays exact.
        draws       forwards averaged per look when the model is random (EOT): in searches, and when an audit measures
                    again what they found.
        detector    callable inputs → (B,) bool, True where the defence rejects the input. What it rejects is no
                    success; an audit counts a clean input that it rejects as not answered rightly.

    >>> Adaptation(stand_ins={"quantise": lambda inputs: inputs}).draws
    1
    """

    stand_ins: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    draws: int = 1
    detector: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        """Refuse what no oracle can serve."""
        if not isinstance(self.draws, int) or isinstance(self.draws, bool) or self.draws < 1:
            raise InputError(f"`draws` must be a whole number, at least 1; got {self.draws!r}")
        if self.detector is not None and not callable(self.detector):
            raise InputError(f"`detector` must be a function of inputs (B, *F), or None; got {self.detector!r}")
        if not isinstance(self.stand_ins, Mapping) or not all(map(callable, self.stand_ins.values())):
            raise InputError(f"`stand_ins` must be functions by the paths of modules; got {self.stand_ins!r}")
