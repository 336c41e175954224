"""Proofs about rotations, shifts and brightness: their parameters split into cells, the pixels of each boxed."""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from trustbound.certificates.certifying import CertificationResult, targets_of
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.graph.reading import read
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.specification import Certifier, LowerBound
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.record.box import Box
from trustbound.tasks.task import Task
from trustbound.threat.sets.cells import cell_limits
from trustbound.threat.sets.transformations import TransformationNeighbourhood, Transformations
from trustbound.threat.threat import Threat

#: Cells of an example that are split together, the worst first; and into how many at most each.
TOGETHER, PIECES = 16, 8

#: Values of each parameter that are tried before anything is bounded: an example that breaks there is left alone.
TRIED = {1: 9, 2: 5, 3: 3}

#: Bounds of cells, by the network alone.
INNER = ("interval", "crown", "alpha-crown")


@dataclass(frozen=True, kw_only=True, eq=False)
class ParameterSplitting:
    """Split the parameters θ of transformations into cells, enclose the pixels of each in a box, and bound over that.

    Bound       Lower. Deterministic: holds for every θ of the set, in exact arithmetic and as a search computes it.
                Stopped early it returns the smallest bound of all cells, and the example is unknown.
    Needs       a network that can be read into a list of operations.  Sets: rotation, translation, brightness, and
                several of them one after another.
    Update      limits of every pixel over a cell: where it is looked up lies in a rectangle, over which the bilinear
                picture is bounded exactly; what comes in from outside is the lowest value of the box, as the set says;
                then `method` over the box of these limits. Of the cells that it leaves, those with the smallest
                bounds are split first, along the parameter that moves the picture most, into as many parts as their
                bound and the margin in their middle say.
    Shapes      inputs (B, C, H, W), or (B, *F) under brightness alone; labels (B,) int64.
    Cost        per cell that of `method`, and a few resamplings; cells grow as a power of the number of parameters.
    Randomness  none; with a timeout, what is proven hangs on the clock.
    Raises      InputError for parameters out of range, UnsupportedError for networks that cannot be read.
    Reference   Singh, Gehr, Püschel and Vechev, An Abstract Domain for Certifying Neural Networks, 2019
                (10.1145/3290354), section 4.8 (rotations, by refined intervals); Balunović, Baader, Singh, Gehr and
                Vechev, Certifying Geometric Robustness of Neural Networks, 2019, for what linear bounds would gain.
    Deviations  cells are split where a proof fails, not evenly; limits of places in place of distances of pixels;
                rounding is charged outward throughout.

    Parameters
        method      that bounds a cell: "interval", "crown" or "alpha-crown".
        max_cells   of an example, at most, those that were split among them.
        timeout     seconds for a call, after which what is open stays unknown; infinity for no limit.
        memory      bytes that one piece of work may hold, about.

    >>> from trustbound.certificates import certify
    >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    >>> bright[1].weight.data = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    >>> inputs, labels = torch.tensor([[[[0.75, 0.75], [0.25, 0.25]]]]), torch.tensor([0])
    >>> certify("parameter-splitting", bright, inputs, labels, "translation:0.25", box=(0.0, 1.0)).certified
    tensor([True])
    """

    method: str = "crown"
    max_cells: int = 1024
    timeout: float = math.inf
    memory: int = 2**27

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        if self.method not in INNER:
            raise InputError(f"`method` must be one of {', '.join(INNER)}; got {self.method!r}")
        for name in ("max_cells", "memory"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise InputError(f"`{name}` must be a whole number, at least 1; got {getattr(self, name)!r}")
        if isinstance(self.timeout, bool) or not isinstance(self.timeout, int | float) or not self.timeout > 0:
            raise InputError(f"`timeout` must be a number of seconds above 0; got {self.timeout!r}")

    def certify(
        self,
        model: nn.Module | Graph,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        *,
        box: Box,
        batch_size: int | None,
        key: int,
        task: Task,
    ) -> CertificationResult:
        """What is proven of inputs (B, *F) that `certify` has checked, to their sizes (B,) and τ."""
        started = time.perf_counter()
        perturbations = threat.perturbations
        if not isinstance(perturbations, Transformations):
            raise UnsupportedError(f"no proof: parameter-splitting serves transformations; got {perturbations}")
        perturbations.check(box, tuple(inputs.shape[1:]))
        graph = model if isinstance(model, Graph) else read(model, inputs, maps=task.maps)
        check_kernels(graph)
        targets = targets_of(graph, labels, threat, task)
        reach = (sizes.to(graph.device) + perturbations.tolerance(box, 1)) * (1 + 1e-12)
        search = _Search(
            graph=graph,
            inputs=placed(inputs.detach().to(graph.device), box),
            labels=labels.to(graph.device),
            targets=None if targets is None else targets.to(graph.device),
            perturbations=perturbations,
            box=box,
            task=task,
            bounds=CERTIFIERS.build(self.method, memory=self.memory),
            most=self.max_cells,
            expired=lambda: time.perf_counter() - started > self.timeout,
        )
        rows = torch.arange(len(inputs)) if targets is None else (targets != labels).nonzero()[:, 0].cpu()
        margin = torch.full((len(inputs),), math.nan, dtype=torch.float64, device=graph.device)
        slack, certified = torch.full_like(margin, math.nan), torch.zeros_like(margin, dtype=torch.bool)
        for part in rows.split(batch_size or max(1, len(rows))) if len(rows) else ():
            at = part.to(graph.device)
            bound = search.run(at, reach[at])
            margin[at], slack[at], certified[at] = bound.value, bound.slack, bound.proven
        return CertificationResult(
            name="parameter-splitting",
            certified=certified,
            margin=margin,
            slack=slack,
            seconds=time.perf_counter() - started,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Cells:
    """Cells of parameters, between floor and ceiling (N, P), of examples `owner` (N,), and what is known of them (N,).

    value, run  as of a `LowerBound`.
    clean       the margin in the middle.
    """

    owner: Tensor
    floor: Tensor
    ceiling: Tensor
    value: Tensor
    run: Tensor
    clean: Tensor

    @classmethod
    def unknown(cls, owner: Tensor, floor: Tensor, ceiling: Tensor) -> Cells:
        """Cells that were not bounded yet."""
        nothing = torch.full_like(floor[:, 0], -math.inf)
        return cls(owner=owner, floor=floor, ceiling=ceiling, value=nothing, run=nothing, clean=nothing)

    @property
    def proven(self) -> Tensor:
        """Of which all is proven, (N,)."""
        return LowerBound(value=self.value, run=self.run).proven

    def select(self, rows: Tensor) -> Cells:
        """Some of them."""
        return Cells(**{name: getattr(self, name)[rows] for name in _FIELDS})

    def join(self, other: Cells) -> Cells:
        """These and others."""
        return Cells(**{name: torch.cat([getattr(self, name), getattr(other, name)]) for name in _FIELDS})

    def worst(self, most: Tensor) -> Tensor:
        """Of each example the cells that are not proven with the smallest bounds, `most` (B,) of them at most."""
        rows = (~self.proven).nonzero()[:, 0]
        rows = rows[self.run[rows].nan_to_num(-math.inf).argsort(stable=True)]
        rows = rows[self.owner[rows].argsort(stable=True)]
        counts = torch.bincount(self.owner[rows], minlength=len(most))
        rank = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[self.owner[rows]]
        return rows[rank < most[self.owner[rows]]]


_FIELDS = tuple(one.name for one in fields(Cells))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Search:
    """The search of one call: examples, what bounds a cell, and when to stop."""

    graph: Graph
    inputs: Tensor
    labels: Tensor
    targets: Tensor | None
    perturbations: Transformations
    box: Box
    task: Task
    bounds: Certifier
    most: int
    expired: Callable[[], bool]

    def run(self, rows: Tensor, reach: Tensor) -> LowerBound:
        """The smallest bounds over all cells of some examples, (R,), each as far as it may be changed."""
        ceiling = reach.unsqueeze(1) * self._around.pace
        alive = torch.zeros(len(self.inputs), dtype=torch.bool, device=rows.device)
        alive[rows] = ~self._broken(rows, ceiling)
        cells = self._bounded(Cells.unknown(rows, -ceiling, ceiling))
        left = torch.full_like(alive, self.most - 1, dtype=torch.int64)
        while not self.expired():
            alive[cells.owner[~cells.proven & ~(cells.clean > 0)]] = False  # the model errs in the middle of a cell
            most = (left // PIECES).clamp(1, TOGETHER).where(alive & (left >= 2), 0)
            now = cells.worst(most)
            if not len(now):
                break
            parts, whole = self._split(cells.select(now), left.clamp(max=PIECES))
            alive[cells.owner[now[whole]]] = False  # no number lies between the ends of such a cell
            kept = torch.ones_like(cells.proven)
            kept[now[~whole]] = False
            left -= torch.bincount(parts.owner, minlength=len(left))
            cells = cells.select(kept).join(self._bounded(parts))
        least = torch.full((2, len(self.inputs)), math.inf, dtype=torch.float64, device=rows.device)
        for side, bound in zip(least, (cells.value, cells.run), strict=True):
            side.scatter_reduce_(0, cells.owner, bound.nan_to_num(-math.inf, math.inf, -math.inf), "amin")
        return LowerBound(value=least[0, rows], run=least[1, rows])

    @cached_property
    def _around(self) -> TransformationNeighbourhood:
        return self.perturbations.around(self.inputs.double(), self.box)

    def _broken(self, rows: Tensor, ceiling: Tensor) -> Tensor:
        """Which examples (R,) the model answers wrongly on a grid of parameters."""
        count = ceiling.shape[1]
        steps = torch.linspace(-1.0, 1.0, TRIED.get(count, 2), dtype=torch.float64, device=rows.device)
        found = torch.zeros_like(rows, dtype=torch.bool)
        for shares in itertools.product(steps, repeat=count):
            found |= ~(self._margins(rows, torch.stack(shares) * ceiling) > 0)
        return found

    def _margins(self, rows: Tensor, theta: Tensor) -> Tensor:
        """Margins of examples (R,) at parameters (R, P), in float64."""
        targets = None if self.targets is None else self.targets[rows]
        required = self.task.requirement(self.labels[rows], self.graph.classes, targets)
        outputs = self.graph(self._around.apply(theta, rows))
        margins = torch.bmm(required.rows, outputs.unsqueeze(2)).squeeze(2)
        return required.margin(margins if required.shift is None else margins + required.shift)

    def _bounded(self, cells: Cells) -> Cells:
        """Cells, and their bounds."""
        few = max(1, self.bounds.memory // (64 * max(1, self.inputs[0].numel())))
        parts = [self._bounds(cells.select(part)) for part in torch.arange(len(cells.owner)).split(few)]
        return functools.reduce(Cells.join, parts) if parts else cells

    @property
    def _working(self) -> torch.dtype:
        """The coarsest precision that θ is applied in: a model that casts its inputs may be given coarser ones."""
        usual = torch.float64 if self.graph.dtype == torch.float64 else torch.float32
        return max((usual, self.inputs.dtype), key=lambda dtype: torch.finfo(dtype).eps)

    def _bounds(self, cells: Cells) -> Cells:
        limits = cell_limits(
            self.perturbations, self.inputs[cells.owner], self.box, cells.floor, cells.ceiling, self._working
        )
        targets = None if self.targets is None else self.targets[cells.owner]
        bound = self.bounds.margins(self.graph, Region.between(*limits), self.labels[cells.owner], targets, self.task)
        clean = self._margins(cells.owner, (cells.floor + cells.ceiling) / 2)
        return replace(cells, value=bound.value, run=bound.run, clean=clean)

    def _split(self, cells: Cells, most: Tensor) -> tuple[Cells, Tensor]:
        """The parts of cells, `most` (B,) of each at most, and which of the cells (N,) have none.

        What a bound loses grows about as a cell does: so many parts that it would lose less than there is.
        """
        middle, half = (cells.floor + cells.ceiling) / 2, (cells.ceiling - cells.floor) / 2
        pull = torch.zeros_like(half)
        for column in range(half.shape[1]):
            step = torch.zeros_like(half)
            step[:, column] = half[:, column]
            first, last = (self._around.apply(middle + sign * step, cells.owner) for sign in (-1.0, 1.0))
            pull[:, column] = (last - first).abs().flatten(1).sum(1) + 1e-12 * half[:, column]
        axis = pull.argmax(1, keepdim=True)
        start, end = cells.floor.gather(1, axis), cells.ceiling.gather(1, axis)
        lost = 1.1 * (cells.clean - cells.value) / cells.clean
        count = lost.ceil().nan_to_num(PIECES).clamp(2, PIECES).to(torch.int64)
        count = torch.minimum(count, most[cells.owner])
        whole = ~((start + (end - start) / PIECES > start) & (end - (end - start) / PIECES < end)).squeeze(1)
        count = count.masked_fill(whole, 0)
        source = torch.arange(len(count), device=count.device).repeat_interleave(count)
        number = torch.arange(len(source), device=count.device) - (count.cumsum(0) - count)[source]
        pieces = count[source].unsqueeze(1)

        def edge(at: Tensor) -> Tensor:
            """Ends of parts: a border has one value, whichever side it is asked from."""
            share = start[source] + (end - start)[source] * (at / pieces)
            return torch.where(at == 0, start[source], torch.where(at == pieces, end[source], share))

        number = number.unsqueeze(1)
        floor = cells.floor[source].scatter(1, axis[source], edge(number))
        ceiling = cells.ceiling[source].scatter(1, axis[source], edge(number + 1))
        return Cells.unknown(cells.owner[source], floor, ceiling), whole
