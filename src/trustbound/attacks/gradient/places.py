"""Where a square does most: places ranked by one gradient, and those that lead by what a square does there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Batched, Problem, Unkept
from trustbound.threat.sets.patch import PatchNeighbourhood


@dataclass(kw_only=True, eq=False)
class Places(Batched):
    """Corners (B, K, 2) of squares, the best first, and what they show at first: pictures (B, *F).

    Of a set without places both are empty.
    """

    corners: Tensor
    uphill: Tensor

    @classmethod
    def none(cls, problem: Problem) -> Places:
        """Return no places."""
        nothing = problem.inputs.new_zeros(len(problem), 0)
        return cls(corners=nothing.unsqueeze(2), uphill=nothing)

    def start(self, problem: Problem, rank: int) -> Tensor | None:
        """The θ of one step at the places of a rank; None where there are none of it."""
        ours = problem.neighbourhood
        if not isinstance(ours, PatchNeighbourhood) or not self.corners.shape[1]:
            return None
        return ours.showing(self.uphill, self.corners[:, rank % self.corners.shape[1]])


def best_places(problem: Problem, count: int, tries: int) -> Places:
    """Rank all places of a patch by the margin's gradient at the clean input; try the first of them, keep the best.

    The gradient of the whole picture tells what each square could gain, were the margin a linear function: one forward
    and one backward for all places. At the `tries` first of them a square is shown whose values stand at the limits to
    which the gradient leads, and the `count` with the smallest margins are returned. What breaks an example on the way
    counts, and it is asked nothing more. Ties are broken by the example's own random numbers.

    >>> from trustbound.attacks import attack
    >>> from trustbound.attacks.gradient.margin_pgd import Run
    >>> from trustbound.model.wrapping import wrap
    >>> pixel = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2, bias=False))
    >>> _ = pixel[1].weight.data.zero_()
    >>> pixel[1].weight.data[0, 6] = 1.0  # all hangs on row 1, column 2
    >>> pixel[1].weight.data[1, 6] = -1.0
    >>> pictures, runs = torch.ones(1, 1, 4, 4), (Run(start="placed"),)
    >>> found = attack("margin-pgd", wrap(pixel), pictures, torch.tensor([0]), "patch:1;goal=misclassify", runs=runs)
    >>> found.adversarial[0, 0, 1, 2]
    tensor(0.)
    """
    ours = problem.neighbourhood
    if not count or not isinstance(ours, PatchNeighbourhood):
        return Places.none(problem)
    whole = problem.with_(neighbourhood=ours.whole(), best_so_far=Unkept(ours.inputs, seeks="any"))
    slope = whole.gradient(ours.inputs.clone(), "margin").gradient.nan_to_num(0.0)
    low, high = ours.low.expand_as(slope), ours.high.expand_as(slope)
    uphill = torch.where(slope > 0, high, torch.where(slope < 0, low, ours.inputs))
    gains = (slope * (uphill - ours.inputs)).sum(1)
    drawn = problem.random.uniform(tuple(gains.shape[1:]), restart=0, draw=7, dtype=gains.dtype)
    peak = gains.flatten(1).amax(1).clamp(min=torch.finfo(gains.dtype).tiny).reshape(-1, 1, 1)
    corners = ours.leading(gains / peak + 1e-6 * drawn, tries)
    margins = torch.full(corners.shape[:2], torch.inf, dtype=gains.dtype, device=gains.device)
    rows = torch.arange(len(problem), device=gains.device)
    asked = problem
    for place in range(corners.shape[1]):
        left = ~problem.best_so_far.found_at(asked.search_rows)
        if not bool(left.all()):
            rows, asked = rows[left], asked.select(left.nonzero()[:, 0])
        if not len(rows):
            break
        theta = asked.neighbourhood.project(_showing(asked, uphill[rows], corners[rows, place]))
        margins[rows, place] = asked.objective.margin(asked.outputs(theta)).to(margins.dtype)
    best = margins.nan_to_num(torch.inf).argsort(dim=1, stable=True)[:, :count]
    return Places(corners=corners.gather(1, best.unsqueeze(2).expand(-1, -1, 2)), uphill=uphill)


def _showing(problem: Problem, pictures: Tensor, corners: Tensor) -> Tensor:
    ours = problem.neighbourhood
    assert isinstance(ours, PatchNeighbourhood)
    return ours.showing(pictures, corners)
