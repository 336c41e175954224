"""Projected gradient ascent with a smooth ReLU derivative: its backward pass sees through inactive units."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from trustbound.attacks.gradient.margin_pgd import VARIED, MarginMemory, MarginPGD, MarginState, Run
from trustbound.attacks.model_access.smooth_relu import SmoothBackward
from trustbound.attacks.searching.problem import Problem
from trustbound.errors import InputError
from trustbound.metrics.losses import Loss
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class SmoothMemory(MarginMemory):
    """Also each ReLU's spread at the clean input, (B, L)."""

    scales: Tensor


@dataclass(frozen=True, kw_only=True)
class SmoothPGD:
    """`margin-pgd` with a smooth derivative in place of the ReLU's 0/1, in the backward pass only.

    Adversarially trained networks mask their gradients a little: units that are just switched off hide the
    way. The smooth derivative sigmoid(k z / s) shows it; s is each layer's spread at the example's own clean
    input. The forward pass, and with it what counts as success, stays exact; so does the polish.

    Bound       Upper. Each success is a checked witness; a failure proves nothing.
    Needs       gradients.  Sets: any.
    Update      theta <- project(theta + epsilon (1 - t / steps) steepest(smooth gradient)).
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C).
    Cost        that of `margin-pgd` and 1 forward.
    Randomness  starts, and where the coarse cells lie.
    Raises      UnsupportedError when the threat gives no gradients, the model has no ReLU-like activation, or calls
                one on a tensor whose first axis is not the batch.
    Reference   kin: Guo et al., Backpropagating linearly improves transferability, 2020 (2012.03528).
    Deviations  an own method, measured in `benchmarks/README.md`.

    Parameters
        sharpness   k of each run, taken in turn.

    >>> SmoothPGD(steps=10, runs=(Run(),)).restarts
    1
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    keeps_closest: ClassVar[bool] = True

    steps: int = 20
    runs: tuple[Run, ...] = VARIED
    candidates: int = 4
    loss: str | Loss = "probability-margin"
    places: int = 64
    sharpness: tuple[float, ...] = (16.0, 32.0)
    ascent: MarginPGD = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """The search that this one smooths; refuses a sharpness that is none."""
        if not self.sharpness or not all(isinstance(k, int | float) and 0 < k < math.inf for k in self.sharpness):
            raise InputError(f"`sharpness` must be one positive number or more; got {self.sharpness!r}")
        ascent = MarginPGD(
            steps=self.steps, runs=self.runs, candidates=self.candidates, loss=self.loss, places=self.places
        )
        object.__setattr__(self, "ascent", ascent)

    @property
    def restarts(self) -> int:
        """One for each run."""
        return len(self.runs)

    @property
    def initial_forwards(self) -> int:
        """Forwards that `prepare` asks for at most."""
        return 1 + self.ascent.initial_forwards

    def prepare(self, problem: Problem) -> SmoothMemory:
        """Measure the scales, then order classes and places."""
        scales = problem.oracle.scales(problem.inputs, problem.search_rows)
        plain = self.ascent.prepare(problem)
        return SmoothMemory(order=plain.order, placed=plain.placed, scales=scales)

    def init(self, problem: Problem) -> MarginState:
        """The start of this restart's run."""
        return self.ascent.init(problem)

    def step(self, problem: Problem, state: MarginState) -> MarginState:
        """One step with the smooth gradient."""
        memory = problem.memory
        smooth = None
        if isinstance(memory, SmoothMemory):
            sharpness = self.sharpness[problem.restart % len(self.sharpness)]
            smooth = SmoothBackward(sharpness, memory.scales)
        return self.ascent.advance(problem, state, smooth)
