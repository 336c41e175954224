"""What a training objective sees of its training: the model, the threat, how far it is, and the inner maximisation.

Two kinds of model call exist in training and they must not be mixed up: the outer one, whose backward pass reaches the
weights, and the inner ones, which ask only where to move the inputs. Computing weight gradients in the inner ones by
accident costs about a tenth of PGD training and leaves them in `.grad`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.attacks.searching.loop import Attack
from trustbound.errors import InputError
from trustbound.hardening.objectives.inner import InnerLoss, InnerOracle, check_inner, climb, full
from trustbound.hardening.training.modes import measuring
from trustbound.model.wrapping import Model
from trustbound.record.box import Box
from trustbound.threat import Access, Neighbourhood, Random, Threat

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The examples of one step, in this process.

    Shapes      inputs (B, *F) in the box, augmented; labels (B,) int64.
    random      every random number of the step: a function of (seed, epoch, example).
    """

    inputs: Tensor
    labels: Tensor
    random: Random

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far training is, for schedules: a function of counted steps, never of a clock.

    Parameters
        epoch, epochs   the current one, counted from 1, and how many there will be.
        step, steps     steps of this epoch that are done, and how many it has.

    >>> Position(epoch=2, epochs=4, step=5, steps=10).share
    0.375
    """

    epoch: int = 1
    epochs: int = 1
    step: int = 0
    steps: int = 1

    @property
    def share(self) -> float:
        """Share of training that is done, in [0, 1)."""
        return ((self.epoch - 1) * self.steps + self.step) / (self.epochs * self.steps)


class Context:
    """Counted access to a model in training.

    Parameters
        model       what is trained, in train mode.
        threat      what to train against, None when the objective needs none.
        shape, rows     of one example, and the most of them that a step sees: what a state is made for.
        forward     how the outer forward is made (a distributed wrapper); the model itself by default.
        autocast    context factory of the precision in use, for the inner forwards.
        move        backward pass of a loss and one step of the optimizer; the backward pass alone by default.

    Attributes  progress: the `Position` of the current step. forwards, backwards: examples evaluated so far (a batch
                of 64 counts 64), outer and inner. updates: how often the weights were moved.

    >>> from trustbound.model.wrapping import wrap
    >>> context = Context(wrap(torch.nn.Linear(2, 3)))
    >>> context.logits(torch.rand(4, 2)).shape, context.forwards
    (torch.Size([4, 3]), 4)
    """

    def __init__(
        self,
        model: Model,
        threat: Threat | None = None,
        *,
        shape: tuple[int, ...] = (),
        rows: int = 0,
        forward: Forward | None = None,
        autocast: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
        move: Callable[[Tensor], None] = Tensor.backward,
    ) -> None:
        self.model, self.shape, self.rows = model, shape, rows
        self.progress = Position()
        self.forwards = self.backwards = self.updates = 0
        # Whoever trains a model sees its gradients, whatever the adversary may see.
        self._threat = None if threat is None else replace(threat, access=Access.GRADIENTS)
        self._forward: Forward = model if forward is None else forward
        self._autocast, self._move = autocast, move
        self._checked: Attack | None = None
        self._around: Neighbourhood | None = None  # of the batch at hand

    @property
    def threat(self) -> Threat:
        """What to train against."""
        if self._threat is None:
            raise InputError(
                "an objective that asks for the threat must declare `threat = True`; this training has none. Declare "
                "it, and give the recipe a threat."
            )
        return self._threat

    @functools.cached_property
    def epsilon(self) -> float:
        """The set's radius as far as the box lets it matter: finite, for step sizes."""
        return float(self.around(torch.zeros(1, *self.shape)).scale())

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) whose loss will move the weights: one forward and one backward for each example."""
        self.forwards += len(inputs)
        self.backwards += len(inputs)
        return full(self._forward(inputs))

    def update(self, loss: Tensor) -> None:
        """Move the weights along a mean loss () now, for objectives that learn several times from one batch."""
        self._move(loss)
        self.updates += 1

    def around(self, inputs: Tensor, *, boxed: bool = True) -> Neighbourhood:
        """The allowed changes of a batch, in ball ∩ box; with `boxed=False` in the ball alone.

        The papers on adversarial training start in the ball alone, before they clip to the box. A neighbourhood's own
        `start` is uniform in ball ∩ box: there no pixel of a black background would stay black.
        """
        perturbations, box = self.threat.perturbations, self.model.box
        if boxed or perturbations.grain:  # l0 counts coordinates: how far each may go is the box's own width
            if self._around is None or self._around.inputs is not inputs:
                self._around = perturbations.around(inputs, box)
            return self._around
        reach = min(perturbations.epsilon, box.width)
        return perturbations.around(inputs, Box(box.low - reach, box.high + reach))

    def start(self, batch: Batch) -> Tensor:
        """A random point of the ball alone, (B, *F); it may lie outside the box."""
        return self.around(batch.inputs, boxed=False).start(batch.random, 0)

    def outputs(self, inputs: Tensor, *, mode: str = "train") -> Tensor:
        """Logits (B, C) of which nothing is learned, seen as the inner maximisation sees them."""
        with self._frozen(len(inputs), mode) as oracle:
            return full(oracle.outputs(inputs, torch.arange(len(inputs), device=inputs.device)))

    def inner(
        self,
        attack: Attack,
        batch: Batch,
        *,
        start: Tensor | None = None,
        loss: InnerLoss | None = None,
        mode: str = "train",
    ) -> Tensor:
        """The inner maximisation: the last points, (B, *F), of one run of an attack on the batch.

        Parameters
            start   θ (B, *P), where an attack that starts at random is to start instead; it may be written into.
            loss    (logits (R, C), owner (R,) rows of the batch) → (R,) to climb in place of the attack's own.
            mode    "train" leaves every part in its mode (the batch's own statistics and live dropout where a part
                    learns), "eval" uses the running statistics.

        Leaves      weights without a gradient, buffers (running statistics), modes and global randomness as they were.
        Raises      UnsupportedError for a set that the attack does not serve and for an attack that seeks the smallest
                    change or has several restarts; InputError for numbers or a start that it has no use for, and for a
                    batch that does not fit into memory.
        """
        if attack != self._checked:
            check_inner(attack, self.threat)
            self._checked = attack
        with self._frozen(len(batch), mode, loss) as oracle:
            return climb(attack, oracle, self.around(batch.inputs), batch.labels, batch.random, start)

    @contextlib.contextmanager
    def _frozen(self, rows: int, mode: str, loss: InnerLoss | None = None) -> Iterator[InnerOracle]:
        """An oracle for the examples of a batch; what it counted is ours at the end."""
        # From the generator that the loop seeds for each step: a resumed run sees the same dropout.
        key = int(torch.randint(2**62, ()))
        oracle = InnerOracle(self.model, examples=rows, key=key, loss=loss)
        with oracle, self._autocast(), contextlib.nullcontext() if mode == "train" else measuring(self.model):
            yield oracle
        cost = oracle.cost
        self.forwards += cost.forwards
        self.backwards += cost.backwards
        if oracle.batch_size < rows:
            raise InputError(
                f"a batch of training must fit into memory as a whole, as batch norm sees it; {rows} examples did not "
                "in the inner maximisation. Choose a smaller batch_size."
            )
