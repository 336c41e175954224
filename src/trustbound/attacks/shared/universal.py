"""Universal adversarial perturbations: the DeepFool steps of many inputs, added up inside one ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from trustbound.attacks.gradient.nearest_classes import by_gap
from trustbound.attacks.refusals import whole
from trustbound.attacks.searching.problem import Problem
from trustbound.attacks.shared.perturbation import shifted
from trustbound.errors import InputError
from trustbound.threat import Access, Neighbourhood
from trustbound.threat.neighbourhood import AdditiveNeighbourhood


@dataclass(frozen=True, kw_only=True)
class UniversalPerturbation:
    """Universal adversarial perturbation: add what takes each unmoved example over the boundary, project, go on.

    Bound       Upper, on examples it was not fitted to as on those it was. Each success is a checked witness.
    Needs       gradients.  Sets: linf, l2.  Goals: misclassify.
    Update      for each example x that clip(x + v) does not move, in random order:
                r <- DeepFool from x + v, the shortest way over the linearised boundaries;  v <- project(v + r);
                passes over the examples until `fooling_rate` of them are moved.
                DeepFool: r <- r + |f_k| / |w_k|^2 w_k for the class k of least |f_k| / |w_k|, where f_k is its logit
                less the label's and w_k the gradient of that; what is looked at is x + v + (1 + overshoot) r.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); v (*F).
    Cost        per example and pass: 1 forward to look and 1 at the pass's end; where it is not moved, for each
                DeepFool step as many forwards and backwards as candidates, and 1 forward.
    Randomness  the order of the examples in each pass.
    Raises      UnsupportedError when the threat gives no gradients, or is no linf or l2 ball.
    Reference   Moosavi-Dezfooli, Fawzi, Fawzi and Frossard, Universal adversarial perturbations, 2017 (1610.08401),
                Algorithm 1, whose inner step is euclidean whatever the ball; Moosavi-Dezfooli, Fawzi and Frossard,
                DeepFool, 2016 (1511.04599), Algorithm 2.
    Deviations  inputs are clipped to the box, in DeepFool too (the papers: not); examples that are answered wrongly
                without it are left out (the paper: only whether the answer changes counts). As in the authors' code, 10
                DeepFool steps over the 10 likeliest classes, and r is left out where they do not cross. `passes`
                limits what the paper repeats until the rate is reached, and the pass that moved most is returned.

    Parameters
        passes          over the examples at most.
        fooling_rate    share of the examples to be moved, 1 - delta.
        steps           of DeepFool at most.
        candidates      classes beside the label that DeepFool looks at, the likeliest.
        overshoot       eta, how far beyond the boundary.

    >>> from trustbound.attacks.shared.fitting import fit_perturbation
    >>> model = torch.nn.Linear(2, 2)
    >>> v = fit_perturbation("uap", model, torch.rand(8, 2), torch.zeros(8, dtype=torch.int64), "linf:0.2", passes=2)
    >>> bool(v.perturbation.abs().max() <= 0.2)
    True
    """

    shared: ClassVar[bool] = True
    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.GRADIENTS
    restarts: ClassVar[int] = 1

    passes: int = 10
    fooling_rate: float = 0.8
    steps: int = 10
    candidates: int = 9
    overshoot: float = 0.02

    def __post_init__(self) -> None:
        """Refuse numbers with which nothing would be fitted."""
        for name in ("passes", "steps", "candidates"):
            whole(name, getattr(self, name))
        if not isinstance(self.fooling_rate, int | float) or not 0.0 < self.fooling_rate <= 1.0:
            raise InputError(f"`fooling_rate` must be a share in (0, 1]; got {self.fooling_rate!r}")
        if not isinstance(self.overshoot, int | float) or not 0.0 <= self.overshoot < math.inf:
            raise InputError(f"`overshoot` must be a number ≥ 0; got {self.overshoot!r}")

    @property
    def dearest(self) -> tuple[int, int]:
        """Forwards and backwards that one pass asks of an example at most."""
        return 2 + self.steps * (self.candidates + 1), self.steps * self.candidates

    def fit(self, problem: Problem, ball: Neighbourhood) -> Tensor:
        """Add up, example by example."""
        shared = torch.zeros_like(problem.inputs[:1])
        best, most = shared, 0.0
        for turn in range(self.passes):
            lot = problem.random.stream("uap").uniform((1,), restart=turn, draw=0, dtype=torch.float64)
            for row in lot[:, 0].argsort(stable=True):
                shared = ball.project(self._moved(problem.select(row.reshape(1)), shared))
            rate = float(_reaches(problem, shared).double().mean())
            if rate > most:
                best, most = shared, rate
            if rate >= self.fooling_rate:
                break
        return (best if most else shared)[0]

    def _moved(self, one: Problem, shared: Tensor) -> Tensor:
        """The perturbation once it moves one example too, (1, *F); as it was where it does, or cannot."""
        outputs = one.outputs(_at(one, shared))
        if _closed(one) or bool(one.objective.reached(outputs)):
            return shared
        labels, change = one.objective.labels, torch.zeros_like(shared)
        classes = by_gap(outputs, labels)[0, : self.candidates]
        owner = torch.zeros_like(classes)
        towards = one.objective.select(owner).towards(classes)
        for _ in range(self.steps):
            point = _at(one, shared + (1.0 + self.overshoot) * change)
            slope = one.gradient(
                point.expand(len(classes), *point.shape[1:]), "difference", objective=towards, owner=owner
            )
            change = change + _shortest(slope.gradient, slope.loss)
            point = _at(one, shared + (1.0 + self.overshoot) * change)
            outputs = one.outputs(point)
            if _closed(one):
                return shared
            if bool(one.objective.reached(outputs)):
                return shared + (1.0 + self.overshoot) * change
        return shared


def _shortest(slopes: Tensor, gaps: Tensor) -> Tensor:
    """The euclidean way onto the nearest of k linearised boundaries, (1, *F); none where there is no slope.

    Shapes      slopes (k, *F) the gradients of gaps (k,), which are 0 on the boundaries.
    """
    flat = slopes.flatten(1).nan_to_num(0.0, 0.0, 0.0)
    length = flat.norm(dim=1)
    away = torch.where(length > 0, gaps.abs() / length.clamp(min=torch.finfo(flat.dtype).tiny), torch.inf)
    nearest = int(away.nan_to_num(torch.inf).argmin())
    if not bool(away[nearest].isfinite()):
        return torch.zeros_like(slopes[:1])
    shortest: Tensor = away[nearest] / length[nearest] * flat[nearest]
    return shortest.reshape(slopes[:1].shape)


def _reaches(problem: Problem, shared: Tensor) -> Tensor:
    """Which examples the perturbation moves, (B,) bool."""
    reached = problem.objective.reached(problem.outputs(_at(problem, shared)))
    refused = problem.oracle.passes.refused(problem.search_rows)
    return reached if refused is None else reached & ~refused


def _closed(one: Problem) -> bool:
    """Whether its example has spent its budget: zeros stand for what was not asked."""
    refused = one.oracle.passes.refused(one.search_rows)
    return refused is not None and bool(refused.any())


def _at(problem: Problem, shared: Tensor) -> Tensor:
    ours = cast(AdditiveNeighbourhood, problem.neighbourhood)
    return shifted(problem.inputs, shared, ours.low, ours.high)
