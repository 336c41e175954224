"""The window to a model that is being trained: it counts, and keeps the weights out of the inner search.

What the oracle is for an attack, the learner is for an objective. Two kinds of model call exist in training
and they must not be mixed up: the outer one, whose backward pass reaches the weights, and the inner ones,
which ask only where to move the inputs. Computing weight gradients in the inner ones by accident costs
about a tenth of PGD training and leaves them in `.grad`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trustbound.hardening.steps.modes import measuring
from trustbound.model.wrapping import Model
from trustbound.record.box import Box
from trustbound.threat import Neighbourhood, PerturbationSet, Random

Forward = Callable[[Tensor], Tensor]
Climb = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]


class Learner:
    """Counted access to a model in training.

    Parameters
        model       what is trained, in train mode.
        allowed     the perturbation set to train against, None when the objective needs none.
        forward     how the outer forward is made (a distributed wrapper); the model itself by default.
        autocast    context factory of the precision in use, for the inner forwards.

    Attributes  forwards, backwards: examples evaluated so far (a batch of 64 counts 64), outer and inner.

    >>> from trustbound.model.wrapping import wrap
    >>> learner = Learner(wrap(torch.nn.Linear(2, 3)))
    >>> learner.logits(torch.rand(4, 2)).shape, learner.forwards
    (torch.Size([4, 3]), 4)
    """

    def __init__(
        self,
        model: Model,
        allowed: PerturbationSet | None = None,
        *,
        forward: Forward | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self.model = model
        self.allowed = allowed
        self.forwards = 0
        self.backwards = 0
        self._forward: Forward = model if forward is None else forward
        self._autocast = autocast

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) whose loss will move the weights: one forward and one backward for each example."""
        self.forwards += len(inputs)
        self.backwards += len(inputs)
        return _full(self._forward(inputs))

    def around(self, inputs: Tensor) -> Neighbourhood:
        """The allowed changes of a batch, in ball ∩ box."""
        return self._allowed.around(inputs, self.model.box)

    def start(self, inputs: Tensor, random: Random) -> Tensor:
        """A random point of the ball alone, (B, *F); it may lie outside the box.

        This is where the papers on adversarial training start, before they clip to the box. A neighbourhood's
        own `start` is uniform in ball ∩ box: there no pixel of a black background would stay black.
        """
        allowed, box = self._allowed, self.model.box
        # l0 counts coordinates: how far each may go is the box's own width.
        reach = 0.0 if allowed.norm == "l0" else min(allowed.epsilon, box.width)
        return allowed.around(inputs, Box(box.low - reach, box.high + reach)).start(random, 0)

    @property
    def _allowed(self) -> PerturbationSet:
        if self.allowed is None:
            raise RuntimeError("an objective that searches must declare `threat = True`")
        return self.allowed

    @contextlib.contextmanager
    def search(self, *, mode: str = "train") -> Iterator[Climb]:
        """Inner search: gives `climb(points, surrogate)`, the gradient of Σ surrogate(logits) at the points.

        No weight gradient is computed or left behind, and buffers come back as they were: a batch norm's
        running statistics move with the outer passes only. `mode` "train" leaves every part in its mode (the
        batch's own statistics and live dropout where a part learns), "eval" uses the running statistics; on exit
        every part is in the mode that it had.
        """
        thawed = [weight for weight in self.model.parameters() if weight.requires_grad]
        buffers = [(buffer, buffer.detach().clone()) for buffer in self.model.buffers()]
        for weight in thawed:
            weight.requires_grad_(False)
        try:
            with contextlib.nullcontext() if mode == "train" else measuring(self.model):
                yield self._climb
        finally:
            for weight in thawed:
                weight.requires_grad_(True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)

    def _climb(self, points: Tensor, surrogate: Callable[[Tensor], Tensor]) -> Tensor:
        self.forwards += len(points)
        self.backwards += len(points)
        leaf = points.detach().requires_grad_(True)
        with torch.enable_grad(), self._autocast():
            logits = self.model(leaf)
        (gradient,) = torch.autograd.grad(surrogate(_full(logits)).sum(), leaf)
        return gradient


def _full(logits: Tensor) -> Tensor:
    """Losses are computed in float32 at least, whatever precision the forward pass ran in."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
