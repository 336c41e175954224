"""What an informed attacker does about a defence, and input defences as wrappers that declare it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def identity(inputs: Tensor) -> Tensor:
    """The stand-in for a step that changes its input little."""
    return inputs


class Quantise(nn.Module):
    """Round values of the box to `levels` evenly spaced ones; the gradient is zero almost everywhere."""

    def __init__(self, levels: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        if levels < 2:
            raise InputError(f"`levels` must be at least 2; got {levels}")
        self.levels, self.low, self.high = levels, low, high

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, *F)."""
        scale = (self.levels - 1) / (self.high - self.low)
        return ((inputs - self.low) * scale).round() / scale + self.low


class InputQuantisation(nn.Module):
    """Quantise the input, then run the network.

    Adaptation  the identity stands in for the rounding in the backward pass.
    Reference   Guo et al., Countering Adversarial Images Using Input Transformations, 2018 (bit depth).

    >>> defended = InputQuantisation(nn.Linear(2, 2), levels=4)
    >>> defended.quantise(torch.tensor([0.0, 0.4, 0.6, 1.0]))
    tensor([0.0000, 0.3333, 0.6667, 1.0000])
    >>> list(defended.adaptation.stand_ins)
    ['quantise']
    """

    def __init__(self, network: nn.Module, *, levels: int, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.quantise = Quantise(levels, low, high)
        self.network = network
        self.adaptation = around(network, stand_ins={"quantise": identity})

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → what the network returns."""
        outputs: Tensor = self.network(self.quantise(inputs))
        return outputs


class RandomResize(nn.Module):
    """Resize to a random size, pad with zeros at a random place, then run the network.

    Parameters  low, high   the side after resizing is drawn from low..high, both included.
                padded      the side that the network sees, at least `high`; `high` unless given.
                draws       how many forwards an informed attacker averages for one gradient.
    Adaptation  `draws` gradients are averaged (expectation over transformation).
    Randomness  torch's global generator: one size and one place for each call, as published.
    Reference   Xie et al., Mitigating Adversarial Effects Through Randomization, 2018.
    Deviations  nearest-neighbour resizing of square pictures only.
    """

    def __init__(self, network: nn.Module, *, low: int, high: int, padded: int | None = None, draws: int = 20) -> None:
        super().__init__()
        padded = high if padded is None else padded
        if not 1 <= low <= high <= padded:
            raise InputError(f"1 ≤ low ≤ high ≤ padded is needed; got {low}, {high}, {padded}")
        self.network = network
        self.low, self.high, self.padded = low, high, padded
        self.adaptation = around(network, draws=draws)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, channels, H, W) → what the network returns for (B, channels, padded, padded)."""
        side = int(torch.randint(self.low, self.high + 1, ()))
        free = self.padded - side
        left, top = int(torch.randint(0, free + 1, ())), int(torch.randint(0, free + 1, ()))
        resized = functional.interpolate(inputs, size=(side, side), mode="nearest")
        outputs: Tensor = self.network(functional.pad(resized, (left, free - left, top, free - top)))
        return outputs


class KWinnersTakeAll(nn.Module):
    """Keep the largest `share` of all activations of an example, set the others to zero.

    Reference   Xiao, Zhong and Zheng, Enhancing Adversarial Defense by k-Winners-Take-All, 2020.

    >>> KWinnersTakeAll(0.5)(torch.tensor([[3.0, -1.0, 2.0, 0.5]]))
    tensor([[3., 0., 2., 0.]])
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise InputError(f"`share` must lie in (0, 1]; got {share}")
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, *F)."""
        flat = inputs.flatten(1)
        winners = max(1, int(self.share * flat.shape[1]))
        least = flat.topk(winners, dim=1).values[:, -1]
        won = inputs >= least.reshape(-1, *(1,) * (inputs.dim() - 1))
        return torch.where(won, inputs, 0.0)


def with_k_winners(network: nn.Module, share: float = 0.2) -> nn.Module:
    """A copy of a network in which each ReLU is replaced by k-winners-take-all.

    Adaptation  the ReLU stands in for each of them in the backward pass.
    Raises      InputError when the network has no ReLU module.
    """
    changed = copy.deepcopy(network)
    paths = [path for path, module in changed.named_modules() if isinstance(module, nn.ReLU)]
    if not paths or "" in paths:
        raise InputError(f"{type(network).__name__} must hold nn.ReLU modules to replace; it has none inside")
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(changed.get_submodule(parent), name, KWinnersTakeAll(share))
    inner = getattr(network, "adaptation", None) or Adaptation()
    stand_ins = {**inner.stand_ins, **dict.fromkeys(paths, functional.relu)}
    changed.__dict__["adaptation"] = Adaptation(stand_ins=stand_ins, draws=inner.draws, detector=inner.detector)
    return changed


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
