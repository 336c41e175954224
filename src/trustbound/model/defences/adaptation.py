"""What an informed attacker does about a defence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

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


def around(
    network: nn.Module, *, stand_ins: dict[str, Callable[[Tensor], Tensor]] | None = None, draws: int = 1
) -> Adaptation:
    """The adaptation of a wrapper that holds `network` under that name, with what the network itself declared.

    Paths are those of `named_modules` of the outermost module. Draws multiply: each layer's randomness needs
    its own average.
    """
    inner = getattr(network, "adaptation", None) or Adaptation()
    return Adaptation(
        stand_ins={
            **(stand_ins or {}),
            **{f"network.{path}" if path else "network": call for path, call in inner.stand_ins.items()},
        },
        draws=draws * inner.draws,
        detector=inner.detector,
    )
