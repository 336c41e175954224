"""What an attack sees of its task: examples, what they may become, and the two ways to ask the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from trustbound.attacks.oracle import Oracle, Slope
from trustbound.attacks.smoothing import SmoothBackward
from trustbound.threat import Neighbourhood, Objective, Random

AnyState = TypeVar("AnyState", bound="State")


@dataclass(kw_only=True, eq=False)
class State:
    """Where an attack stands. Every tensor field has leading axis B; other fields are shared by all examples.

    Parameters
        theta   (B, *P) the current point.
        done    (B,) bool, what the attack itself considers finished (a line search that closed, say).
    """

    theta: Tensor
    done: Tensor

    def select(self: AnyState, rows: Tensor) -> AnyState:
        """The state of some of the examples."""
        kept = {
            field.name: value[rows] if isinstance(value := getattr(self, field.name), Tensor) else value
            for field in dataclasses.fields(self)
        }
        return type(self)(**kept)


class Trail:
    """Best-so-far of every example of a search; it sees each point that is evaluated.

    Because every forward passes here, an attack cannot cross an adversarial point and lose it.
    """

    def __init__(self, inputs: Tensor, *, seeks: str) -> None:
        count = len(inputs)
        self.seeks = seeks
        self.best = inputs.clone()
        self.found = torch.zeros(count, dtype=torch.bool, device=inputs.device)
        self.size = torch.full((count,), torch.inf, dtype=torch.float64, device=inputs.device)
        self.margin = torch.full((count,), torch.inf, dtype=inputs.dtype, device=inputs.device)

    def observe(
        self, adversarial: Tensor, margin: Tensor, place: Tensor, neighbourhood: Neighbourhood, owner: Tensor
    ) -> None:
        """Keep what is new: the first success, or the smallest one.

        Parameters
            adversarial, margin     (R, *F), (R,) the points evaluated and how far they are from the goal.
            place, owner            (R,) whose they are: row of the search, row of the neighbourhood.
        """
        margin = margin.to(self.margin.dtype)
        reached = margin < 0
        if len(place) == len(self.margin):  # every example once, in order: the common case
            torch.fmin(self.margin, margin, out=self.margin)
        else:
            self.margin.scatter_reduce_(0, place, margin.nan_to_num(nan=torch.inf), "amin")
        fresh = reached if self.seeks == "smallest" else reached & ~self.found[place]
        rows = fresh.nonzero()[:, 0]
        if not len(rows):
            return
        where, ours = place[rows], neighbourhood.select(owner[rows])
        points = adversarial[rows]
        inside = ours.contains(points)
        size = ours.size(points)
        if self.seeks == "smallest":
            inside &= size < self.size[where]
        rows_in = inside.nonzero()[:, 0]
        # Several rows may belong to one example: write the largest first, so that the smallest stays.
        order = rows_in[size[rows_in].argsort(descending=True, stable=True)]
        for chunk in order.split(1) if _repeats(where[order]) else (order,):
            self.best[where[chunk]] = points[chunk]
            self.size[where[chunk]] = size[chunk]
        self.found[where[order]] = True


def _repeats(places: Tensor) -> bool:
    return len(places) > 1 and len(places.unique()) < len(places)


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The examples under attack.

    Parameters
        neighbourhood   what they may become, (B, *F).
        objective       what success is.
        random          per-example randomness.
        place           (B,) their rows in the search.
        restart         number of this start.
    """

    oracle: Oracle
    trail: Trail
    neighbourhood: Neighbourhood
    objective: Objective
    random: Random
    place: Tensor
    restart: int = 0

    @property
    def inputs(self) -> Tensor:
        """Clean inputs (B, *F)."""
        return self.neighbourhood.inputs

    def __len__(self) -> int:
        return len(self.place)

    def outputs(self, theta: Tensor, owner: Tensor | None = None) -> Tensor:
        """Evaluate points: R rows of θ, row i owned by example owner[i] (by default one each, in order)."""
        ours, place, owner = self._owned(owner)
        adversarial = ours.apply(theta)
        outputs = self.oracle.outputs(adversarial, place)
        self._observe(adversarial, outputs, place, owner)
        return outputs

    def gradient(
        self,
        theta: Tensor,
        loss: str,
        *,
        objective: Objective | None = None,
        owner: Tensor | None = None,
        smooth: SmoothBackward | None = None,
    ) -> Slope:
        """Evaluate points and the gradient of a named loss, to climb.

        `objective` replaces the goal in the surrogate only (towards another class, say); what counts as
        success stays the goal's.
        """
        ours, place, owner = self._owned(owner)
        climbed = self.objective if objective is None else objective
        if objective is None and len(owner) != len(self.place):
            climbed = climbed.select(owner)

        def surrogate(outputs: Tensor, rows: slice) -> Tensor:
            return climbed.select(rows).loss(loss, outputs)

        additive = ours.apply(theta) is theta
        slope = self.oracle.gradient(theta, place, surrogate, None if additive else ours.apply, smooth)
        self._observe(ours.apply(theta), slope.outputs, place, owner)
        return slope

    def select(self, rows: Tensor) -> Problem:
        """The same task for some of the examples."""
        return dataclasses.replace(
            self,
            neighbourhood=self.neighbourhood.select(rows),
            objective=self.objective.select(rows),
            random=self.random.select(rows),
            place=self.place[rows],
        )

    def with_(self, **changes: Any) -> Problem:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def _owned(self, owner: Tensor | None) -> tuple[Neighbourhood, Tensor, Tensor]:
        if owner is None:
            return self.neighbourhood, self.place, torch.arange(len(self.place), device=self.place.device)
        return self.neighbourhood.select(owner), self.place[owner], owner

    def _observe(self, adversarial: Tensor, outputs: Tensor, place: Tensor, owner: Tensor) -> None:
        objective = self.objective if len(owner) == len(self.place) else self.objective.select(owner)
        self.trail.observe(adversarial, objective.margin(outputs), place, self.neighbourhood, owner)
