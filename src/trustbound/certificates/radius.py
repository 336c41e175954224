"""The largest radius that a certifier can prove for each example, by bisection."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.region import Region
from trustbound.certificates.region.registry import REGIONS
from trustbound.certificates.specification import Certifier
from trustbound.errors import InputError
from trustbound.record.box import Box, Limit
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task


def certified_radius(
    certifier: Certifier,
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    box: Box | tuple[Limit, Limit],
    norm: str,
    *,
    cap: float = float("inf"),
    steps: int = 12,
    tolerance: float = 0.0,
    task: Task = CLASSIFICATION,
) -> Tensor:
    """Return for each example a radius (B,) that is proven, as large as bisection finds; 0 where none is.

    Every radius returned was itself proven, with `tolerance` (a threat's τ) added: nothing is interpolated. The
    search starts at `cap`, at most the box's diameter, and grows from small radii so that the dear large ones are
    tried only where smaller ones held; then it halves the gap `steps` times. Each round asks the intervals first
    and the certifier for the rest, all examples at once. Of a norm that counts all radii are whole numbers.

    Raises      InputError for a cap that is not above 0, fewer than 1 step, or inputs outside the box.

    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    >>> found = certified_radius(Interval(), read(linear, inputs), inputs, labels, (0.0, 1.0), "linf", steps=20)
    >>> round(float(found), 4)
    0.25
    """
    if not cap > 0 or steps < 1:
        raise InputError(f"certified_radius needs cap > 0 and steps ≥ 1; got cap={cap}, steps={steps}")
    check_kernels(graph)
    inputs, labels = inputs.to(graph.device), labels.to(graph.device)
    limits = Box.of(box)
    grain = REGIONS.find(norm).grain if norm in REGIONS.names else 0.0
    most = min(cap, limits.diameter(norm, inputs[0].numel()))
    most = math.floor(most) if grain else most
    proven = torch.zeros(len(inputs), dtype=torch.float64, device=graph.device)
    failed = torch.full_like(proven, most + grain)
    # A radius of 0 leaves rounding alone: whoever is not proven there never will be.
    alive = _proves(certifier, graph, inputs, labels, limits, norm, proven + tolerance, task)
    open_ = torch.ones_like(alive)
    for step in range(steps + _DOUBLINGS):
        rows = (alive & (failed - proven > grain)).nonzero()[:, 0]
        if not len(rows):
            break
        growing = open_[rows] & (step < _DOUBLINGS)
        first = torch.where(proven[rows] > 0, 2 * proven[rows], most / 2 ** (_DOUBLINGS - 1))
        trial = torch.where(growing, first.clamp(max=most), (proven[rows] + failed[rows]) / 2)
        trial = trial.floor().clamp(min=grain) if grain else trial
        held = _proves(certifier, graph, inputs[rows], labels[rows], limits, norm, trial + tolerance, task)
        proven[rows] = torch.where(held, trial, proven[rows])
        failed[rows] = torch.where(held, failed[rows], trial)
        open_[rows] &= held
    return proven


_DOUBLINGS = 10


def _proves(
    certifier: Certifier,
    graph: Graph,
    inputs: Tensor,
    labels: Tensor,
    box: Box,
    norm: str,
    radius: Tensor,
    task: Task,
) -> Tensor:
    """Say which examples are proven at their radius, (B,) bool: intervals first, then the certifier."""
    if not len(inputs):
        return torch.zeros(0, dtype=torch.bool, device=graph.device)
    region = Region.around(inputs, box, norm, radius)
    held = Interval(memory=certifier.memory).margins(graph, region, labels, task=task).proven
    rest = (~held).nonzero()[:, 0]
    if len(rest) and not isinstance(certifier, Interval):
        held[rest] = certifier.margins(graph, region.select(rest), labels[rest], task=task).proven
    return held
