"""A classifier that votes over ablated copies of a picture: each shows one band of columns, or one block, and no more.

A patch can change the votes of those copies alone that show some of it. How many these are is a matter of counting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.metrics.decision import answered
from trustbound.model.defences.adaptation import around
from trustbound.model.wrapping import Model, wrap
from trustbound.tasks.task import real

KINDS = ("band", "block")


class Ablated(nn.Module):
    """The votes of all ablated copies of an input.

    Parameters  network     the model that is asked; `kind`: "band", columns of full height, or "block", a square;
                `width` of what is shown, in pixels; `threshold`: a copy votes for every class whose softmax is above
                it, or, without one, for the class of its largest logit.
    Shapes      inputs (B, C, H, W) → votes (B, K), whole numbers; a copy that gets no answer votes for nobody.
    Cost        a look asks the network about as many copies as there are places: W bands, or H · W blocks.
    Adaptation  the gradient is that of the sum of the softmaxes, as an attacker who knows the defence takes it.
    Randomness  none.
    Reference   Levine and Feizi, (De)Randomized Smoothing for Certifiable Defense against Patch Attacks, 2020,
                arXiv:2002.10733, sections 3.1 and 3.2.
    Deviations  what is ablated shows the lowest value of the box, not an encoding of its own; without a threshold
                copies vote by their largest logit.

    >>> voting = Ablated(wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))), kind="band", width=2)
    >>> voting(torch.rand(5, 1, 3, 4)).sum(1).tolist()
    [4.0, 4.0, 4.0, 4.0, 4.0]
    """

    def __init__(self, network: Model, *, kind: str, width: int, threshold: float | None = None) -> None:
        super().__init__()
        check(kind, width, threshold)
        self.network, self.kind, self.width, self.threshold = network, kind, width, threshold
        self.adaptation = around(network)
        # Part of what tells it from others: its digest is that of its tensors. Whole numbers name no precision.
        told = [float(KINDS.index(kind)), float(width), -1.0 if threshold is None else threshold]
        self.register_buffer("told", torch.tensor(told, dtype=torch.float64).view(torch.int64))
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) → (B, K)."""
        if inputs.dim() != 4:
            raise InputError(
                f"ablation shows parts of pictures (B, C, H, W); got inputs of shape {tuple(inputs.shape)}"
            )
        total: Tensor | None = None
        for shown in self.windows(inputs.shape[2], inputs.shape[3]):
            outputs: Tensor = self.network(self.copy(inputs, shown))
            votes = self._votes(outputs)
            total = votes if total is None else total + votes
        assert total is not None
        return total

    def copy(self, inputs: Tensor, shown: Tensor) -> Tensor:
        """Inputs (B, C, H, W) where `shown` (H, W) says so, elsewhere the lowest value of the box."""
        low = torch.as_tensor(self.network.box.low, dtype=inputs.dtype, device=inputs.device)
        return torch.where(shown.to(inputs.device), inputs, low)

    def windows(self, height: int, width: int) -> Iterator[Tensor]:
        """What each copy shows, (H, W) bool; what goes beyond an edge goes on at the other."""
        columns = [_run(place, self.width, width) for place in range(width)]
        if self.kind == "band":
            yield from (column.expand(height, width) for column in columns)
            return
        for row in range(height):
            lines = _run(row, self.width, height).unsqueeze(1)
            yield from (lines & column for column in columns)

    def touched(self, side: int, height: int, width: int) -> int:
        """How many copies show some of a square of so many pixels a side, at most."""
        if not side:
            return 0
        across, down = (min(length, side + self.width - 1) for length in (width, height))
        return across if self.kind == "band" else across * down

    def _votes(self, outputs: Tensor) -> Tensor:
        silent = ~answered(outputs.detach()).unsqueeze(1)
        said = outputs.masked_fill(silent, 0.0)
        chances = said.softmax(1)
        if self.threshold is None:
            votes = functional.one_hot(said.detach().double().argmax(1), said.shape[1])
        else:
            votes = chances.detach() > self.threshold
        # Half precision counts to 2,048 at most, bfloat16 to 256.
        votes = votes.to(torch.promote_types(outputs.dtype, torch.float32)).masked_fill(silent, 0.0)
        return votes + (chances - chances.detach()) if outputs.requires_grad else votes


def check(kind: str, width: int, threshold: float | None) -> None:
    """Refuse what shows nothing, and a threshold that is no probability."""
    if kind not in KINDS:
        raise InputError(f"`kind` must be one of {', '.join(KINDS)}; got {kind!r}")
    if type(width) is not int or width < 1:
        raise InputError(f"`width` must be a whole number of pixels, at least 1; got {width!r}")
    chance = None if threshold is None else real(threshold)
    if threshold is not None and (chance is None or not 0.0 <= chance < 1.0 or math.isnan(chance)):
        raise InputError(f"`threshold` must be a probability from 0 to below 1, or None; got {threshold!r}")


def ablate(model: nn.Module | Model, *, kind: str = "band", width: int = 4, threshold: float | None = None) -> Model:
    """Let a classifier vote over ablated pictures: the model whose certificates `certify("ablation", …)` are.

    It is another model than the one inside, and wants that one trained on ablated pictures (objective `ablation`).

    Parameters
        kind        what each copy shows: "band", columns of full height, or "block", a square.
        width       of what is shown, in pixels.
        threshold   a copy votes for every class of more probability than this; None: for that of its largest logit.

    Raises      InputError for a model that is no classifier of pictures, or is random or has a detector.

    >>> voting = ablate(wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), input_shape=(1, 3, 4)), width=2)
    >>> voting.name, voting(torch.rand(1, 1, 3, 4)).shape
    ('Sequential over bands of 2', torch.Size([1, 2]))
    """
    inner = wrap(model)
    if isinstance(inner.module, Ablated):
        raise InputError(f"{inner.name} votes over ablated pictures already; ablate the network inside")
    if not inner.task.plain:
        raise InputError(f"ablation needs a classifier, whose copies vote; got the task {inner.task}")
    if inner.adaptation.draws > 1 or inner.adaptation.detector is not None:
        raise InputError(f"ablation needs a model that answers by itself; {inner.name} is random or has a detector")
    if inner.input_shape is not None and len(inner.input_shape) != 3:
        raise InputError(f"ablation shows parts of pictures (C, H, W); {inner.name} takes {tuple(inner.input_shape)}")
    return wrap(
        Ablated(inner, kind=kind, width=width, threshold=threshold),
        box=inner.box,
        name=f"{inner.name} over {kind}s of {width}",
        input_shape=inner.input_shape,
        classes=inner.classes,
        task=inner.task,
    )


def _run(first: int, count: int, length: int) -> Tensor:
    """So many of a ring of places, from the first on, (length,) bool."""
    return (torch.arange(length) - first) % length < count
