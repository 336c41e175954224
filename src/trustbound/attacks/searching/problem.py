"""What an attack sees of its task: examples, what they may become, and the two ways to ask the model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from trustbound.attacks.model_access.compiled import SurrogateLoss
from trustbound.attacks.model_access.gradient_evaluation import Apply, GradientEvaluation
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.model_access.smooth_relu import SmoothBackward
from trustbound.attacks.model_access.surrogate import CustomLoss, OnOutputs
from trustbound.errors import UnsupportedError
from trustbound.metrics.losses import Loss
from trustbound.threat import Neighbourhood, Objective, Random

AnyBatched = TypeVar("AnyBatched", bound="Batched")


@dataclass(kw_only=True, eq=False)
class Batched:
    """Tensors with leading axis B, alone or in such groups, beside plain values that all examples share."""

    def select(self: AnyBatched, rows: Tensor) -> AnyBatched:
        """The same for some of the examples."""
        kept = {field.name: _rows_of(getattr(self, field.name), rows) for field in dataclasses.fields(self)}
        return type(self)(**kept)


def _rows_of(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Batched):
        return value.select(rows)
    return value[rows] if isinstance(value, Tensor) else value


@dataclass(kw_only=True, eq=False)
class State(Batched):
    """Where an attack stands. Every tensor field has leading axis B; other fields are shared by all examples.

    Parameters
        theta   (B, *P) the current point.
        done    (B,) bool, what the attack itself considers finished (a line search that closed, say).
    """

    theta: Tensor
    done: Tensor


@dataclass(eq=False)
class _Current:
    """The examples that advance at present: rows (R,) of the search, margins, what is found, whether all is."""

    search_rows: Tensor
    margin: Tensor
    found: Tensor
    finished: bool = False


class BestSoFar:
    """Best-so-far of every example of a search; it sees each point that is evaluated.

    Because every forward passes here, an attack cannot cross an adversarial point and lose it. Steps of the same
    examples follow each other, so that their margins and successes are kept at hand until others come.

    Parameters
        origin      (B, *P) the θ that change nothing.
    """

    def __init__(
        self,
        origin: Tensor,
        *,
        seeks: str,
        stop_early: bool = False,
        keep_closest: bool = False,
        infeasible: bool = False,
    ) -> None:
        count = len(origin)
        self.infeasible = infeasible
        self.seeks = seeks
        self.stop_early = stop_early
        self.best = origin.clone()
        self.closest = origin.clone() if keep_closest else None
        self.size = torch.full((count,), torch.inf, dtype=torch.float64, device=origin.device)
        self._margin = torch.full((count,), torch.inf, dtype=origin.dtype, device=origin.device)
        self._found = torch.zeros(count, dtype=torch.bool, device=origin.device)
        self._current: _Current | None = None

    @property
    def margin(self) -> Tensor:
        """(B,) the smallest seen; infinite where nothing was."""
        self._settle()
        return self._margin

    @property
    def found(self) -> Tensor:
        """(B,) bool."""
        return self._found

    def begin(self, reached: Tensor) -> None:
        """Clean inputs that reach the goal, (B,) bool, are found unperturbed."""
        self._settle()
        self._found |= reached
        self.size[reached] = 0.0
        self._margin[reached] = -torch.inf

    def found_at(self, search_rows: Tensor) -> Tensor:
        """What is found of some examples (R,), (R,) bool."""
        current = self._current
        return current.found if current is not None and current.search_rows is search_rows else self._found[search_rows]

    def observe(
        self,
        theta: Tensor,
        margin: Tensor,
        search_rows: Tensor,
        neighbourhood: Neighbourhood,
        owner: Tensor | None = None,
    ) -> None:
        """Keep what is new: the first success, or the smallest one.

        Parameters
            theta, margin   (R, *P), (R,) the points evaluated and how far they are from the goal.
            search_rows     (R,) whose they are: row of the search.
            owner           (R,) the same as row of the neighbourhood; None: one each, in order.
        """
        margin = margin.to(self._margin.dtype)
        if self.infeasible:  # what lies outside the set is no success, and no sign of one
            ours = neighbourhood if owner is None else neighbourhood.select(owner)
            margin = margin.masked_fill(~ours.contains(theta), torch.inf)
        current = self._at(search_rows) if owner is None else None
        found = self._found[search_rows] if current is None else current.found
        # An example that stops at its first success may be evaluated further until it is dropped; when that
        # happens depends on the other rows of the batch, so what is seen then must leave no trace.
        seen = margin.masked_fill(found, torch.inf) if self.stop_early else margin
        if self.closest is not None:
            nearer = (seen < (self.margin[search_rows] if current is None else current.margin)).nonzero()[:, 0]
            if owner is not None:
                nearer = _least(nearer, search_rows, seen)
            self.closest[search_rows[nearer]] = theta[nearer]
        if current is not None:
            torch.fmin(current.margin, seen, out=current.margin)
        else:
            self.margin.scatter_reduce_(0, search_rows, seen.nan_to_num(nan=torch.inf, neginf=-torch.inf), "amin")
        if current is not None and current.finished and self.seeks == "any":
            return
        reached = margin < 0
        rows = (reached if self.seeks == "smallest" else reached & ~found).nonzero()[:, 0]
        if not len(rows):
            return
        where, ours = search_rows[rows], neighbourhood.select(rows if owner is None else owner[rows])
        points = theta[rows]
        size = ours.size(points)
        inside = ours.contains(points, size)
        if self.seeks == "smallest":
            inside &= size < self.size[where]
        rows_in = inside.nonzero()[:, 0]
        kept = rows_in if owner is None else _least(rows_in, where, size)
        self.best[where[kept]] = points[kept]
        self.size[where[kept]] = size[kept]
        self._found[where[kept]] = True
        if current is not None:
            current.found = self._found[search_rows]
            current.finished = bool(current.found.all())

    def _at(self, search_rows: Tensor) -> _Current:
        """The current examples, which these become."""
        current = self._current
        if current is None or current.search_rows is not search_rows:
            self._settle()
            current = self._current = _Current(search_rows, self._margin[search_rows], self._found[search_rows])
        return current

    def _settle(self) -> None:
        """Write the margins at hand to their rows."""
        if self._current is not None:
            self._margin.scatter_reduce_(0, self._current.search_rows, self._current.margin, "amin")
            self._current = None


class Unkept(BestSoFar):
    """A best so far that keeps nothing, where points are no answers: in training, and while a perturbation is
    fitted.
    """

    def observe(self, *seen: Any) -> None:
        """Pass on."""


def _least(rows: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Of several rows that belong to one place, the row of least value; the first of them at a tie."""
    order = rows[values[rows].argsort(stable=True)]
    order = order[places[order].argsort(stable=True)]  # by place, the least first within each
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = places[order][1:] != places[order][:-1]
    return order[first]


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The examples under attack.

    Parameters
        neighbourhood   what they may become, θ (B, *P).
        objective       what success is.
        random          per-example randomness.
        search_rows     (B,) their rows in the search.
        restart         number of this start.
        memory          what the attack's `prepare` returned, one row an example, for all its restarts.
        logit_scale     (B,) powers of two by which surrogates see the logits (`model_access.logit_scale`); None for 1.
        donors          (D, *F) inputs of the data from which a search without scores may start, the same for all.
    """

    oracle: Oracle
    best_so_far: BestSoFar
    neighbourhood: Neighbourhood
    objective: Objective
    random: Random
    search_rows: Tensor
    restart: int = 0
    memory: Batched | None = None
    logit_scale: Tensor | None = None
    donors: Tensor | None = None

    @property
    def inputs(self) -> Tensor:
        """Clean inputs (B, *F)."""
        return self.neighbourhood.inputs

    def __len__(self) -> int:
        return len(self.search_rows)

    def closest(self) -> Tensor:
        """The evaluated points of smallest margin, for attacks that set `keeps_closest`, (B, *F)."""
        if self.best_so_far.closest is None:
            raise UnsupportedError("the closest points are kept for attacks with `keeps_closest = True` only")
        return self.best_so_far.closest[self.search_rows]

    def outputs(self, theta: Tensor, owner: Tensor | None = None) -> Tensor:
        """Evaluate points: R rows of θ, row i owned by example owner[i] (by default one each, in order).

        An input that reaches the goal and is rejected by the declared detector reads as far from the goal.
        """
        search_rows = self.search_rows if owner is None else self.search_rows[owner]
        adversarial = self.neighbourhood.apply(theta, owner)
        return self._observed(theta, adversarial, self.oracle.outputs(adversarial, search_rows), search_rows, owner)

    def gradient(
        self,
        theta: Tensor,
        loss: str | Loss,
        *,
        objective: Objective | None = None,
        owner: Tensor | None = None,
        smooth: SmoothBackward | None = None,
    ) -> GradientEvaluation:
        """Evaluate points and the gradient of a loss, to climb: named, or a function of outputs and labels.

        `objective` replaces the goal in the surrogate only (towards another class, say); what counts as
        success stays the goal's. A goal to which no named loss leads is climbed by its own margin.
        """
        search_rows = self.search_rows if owner is None else self.search_rows[owner]
        climbed = self.objective if objective is None else objective
        if objective is None and owner is not None:
            climbed = climbed.select(owner)

        logit_scale = self.logit_scale if self.logit_scale is None or owner is None else self.logit_scale[owner]
        surrogate: SurrogateLoss | CustomLoss | OnOutputs
        if not isinstance(loss, str) and (view := self.oracle.view) is not None:
            surrogate = OnOutputs(loss, view.labels[search_rows.to(view.labels.device)])
        elif isinstance(loss, str) and climbed.has_surrogates:
            surrogate = SurrogateLoss(loss, climbed.labels, climbed.targets, logit_scale)
        else:
            surrogate = CustomLoss(climbed, None if isinstance(loss, str) else loss)
        apply = None if self.neighbourhood.additive else self._apply(owner)
        slope = self.oracle.gradient(theta, search_rows, surrogate, apply, smooth)
        outputs = self._observed(theta, slope.points, slope.outputs, search_rows, owner)
        climbed_to = slope.loss if self.oracle.view is None else slope.loss.to(theta.dtype)
        if outputs is slope.outputs and climbed_to is slope.loss:
            return slope
        return dataclasses.replace(slope, outputs=outputs, loss=climbed_to)

    def select(self, rows: Tensor) -> Problem:
        """The same task for some of the examples."""
        return dataclasses.replace(
            self,
            neighbourhood=self.neighbourhood.select(rows),
            objective=self.objective.select(rows),
            random=self.random.select(rows),
            search_rows=self.search_rows[rows],
            memory=None if self.memory is None else self.memory.select(rows),
            logit_scale=None if self.logit_scale is None else self.logit_scale[rows],
        )

    def with_(self, **changes: Any) -> Problem:
        """A copy with some fields replaced."""
        return dataclasses.replace(self, **changes)

    def _apply(self, owner: Tensor | None) -> Apply:
        """The neighbourhood's, for chunks of the rows of θ."""

        def applied(theta: Tensor, rows: Tensor | slice) -> Tensor:
            return self.neighbourhood.apply(theta, rows if owner is None else owner[rows])

        return applied

    def _observed(
        self, theta: Tensor, adversarial: Tensor, outputs: Tensor, search_rows: Tensor, owner: Tensor | None
    ) -> Tensor:
        """Keep what is new; returns the outputs as the defended model shows them."""
        objective = self.objective if owner is None else self.objective.select(owner)
        margin = objective.margin(outputs)
        if (refused := self.oracle.passes.refused(search_rows)) is not None:
            margin = margin.masked_fill(refused, torch.inf)  # zeros stand for what was not asked
        if self.oracle.detector is not None:
            rejected = self.oracle.rejected(adversarial, search_rows, margin < 0)
            margin = margin.masked_fill(rejected, torch.inf)
            outputs = _withheld(objective, outputs, rejected)
        self.best_so_far.observe(theta, margin, search_rows, self.neighbourhood, owner)
        # What decides is in float64; what guides the steps needs no more than they have.
        return outputs if self.oracle.view is None else outputs.to(theta.dtype)


def _withheld(objective: Objective, outputs: Tensor, rejected: Tensor) -> Tensor:
    """Outputs (R, C) where a rejected input is further from the goal than any answer: so an attack turns away."""
    if not bool(rejected.any()):
        return outputs
    labels, classes = objective.labels, outputs.shape[1]
    if objective.targets is not None:  # whoever is to reach the label's own class
        labels = torch.where(objective.targets == labels, (labels + 1) % classes, labels)
    size = outputs.nan_to_num(0.0, 0.0, 0.0).abs().amax(dim=1, keepdim=True)
    far = torch.nn.functional.one_hot(labels, classes) * (100.0 + 2.0 * size)
    return torch.where(rejected[:, None], far.to(outputs.dtype), outputs)
