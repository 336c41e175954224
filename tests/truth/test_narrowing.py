"""Limits where a row is at most a threshold, against the points at which it is."""

import math
from dataclasses import replace

import pytest
import torch
from tests.truth.test_branch_and_bound import BOX, convolutional, fully_connected, operands
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.methods import backward
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.region import Region
from trustbound.certificates.verification import narrowed_splitting, narrowing
from trustbound.certificates.verification.branch_and_bound import BranchAndBound
from trustbound.certificates.verification.domains import Tree
from trustbound.certificates.verification.narrowing import Narrowing, Part
from trustbound.metrics.margin import margin_rows


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        hidden = self.first(inputs).relu()
        return self.last((hidden + self.second(hidden)).relu())


def residual(seed):
    torch.manual_seed(seed)
    network = Residual()
    with torch.no_grad():
        for part in network.children():
            part.weight.mul_(2.0)
        network.last.bias -= network(torch.full((1, 3), 0.5))[0]
    return network


def curved(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for place in (0, 2, 4):
            network[place].weight.mul_(4.0)
        network[4].bias -= network(torch.full((1, 3), 0.5))[0]
    return network


CASES = {
    "relu 0": lambda: (fully_connected(0, (3, 8, 6, 3)), (3,), "linf"),
    "relu 1": lambda: (fully_connected(1, (3, 8, 8, 6, 3)), (3,), "linf"),
    "ball": lambda: (fully_connected(2, (3, 8, 6, 3)), (3,), "l2"),
    "leaky": lambda: (fully_connected(3, (3, 8, 6, 3), 0.3), (3,), "linf"),
    "convolution": lambda: (convolutional(0), (1, 4, 4), "linf"),
    "residual": lambda: (residual(0), (3,), "linf"),
    "curved": lambda: (curved(0), (3,), "linf"),
}


def sampled(region, count=6000):
    """Points of the region, inner ones and corners."""
    chance = torch.Generator().manual_seed(0)
    share = torch.rand(count, *region.inputs.shape[1:], generator=chance, dtype=torch.float64)
    share = torch.where(torch.rand(share.shape, generator=chance) < 0.4, share.round(), share)
    points = region.low + (region.high - region.low) * share
    if region.norm == "l2":
        away = points - region.inputs
        points = region.inputs + away * (region.radius / away.norm(2, 1)).clamp(max=1.0).unsqueeze(1)
    return points


def crossings(case, signed):
    """How many limits are crossed by points of a part at which its row is at most the threshold, and of how many.

    Also how much narrower the limits have become.
    """
    network, shape, norm = CASES[case]()
    inputs = torch.full((1, *shape), 0.45)
    graph, region = read(network, inputs), Region.around(inputs, BOX, norm, 0.3)
    tree = Tree.over(AlphaCrown().limits(graph, region), margin_rows(network(inputs).argmax(1), 3)[0])
    points = sampled(region)
    z, margins = (
        operands(tree, points) if tree.places else (points.new_zeros(len(points), 0), graph(points) @ tree.rows.T)
    )
    crossed = asked = 0
    gained = 0.0
    for row in range(2):
        threshold = float(margins[:, row].quantile(0.05))
        mine = replace(tree, rows=tree.rows[row : row + 1])
        domain = mine.improve(mine.whole(torch.tensor([0])), Ascent(steps=20, step_size=0.3), math.inf)
        below = margins[:, row] <= threshold
        part = Part(tree=mine, domain=domain.better(mine.bound(domain)), split=torch.zeros(0, dtype=torch.int64))
        if signed:
            split = z[below][0].abs().argsort()[:3]  # the neurons on whose both sides most points lie
            signs = torch.zeros_like(domain.signs)
            signs[0, split] = z[below][0, split].sign().to(torch.int8)
            below &= (z[:, split] * signs[0, split] >= 0).all(1)
            part = replace(part, domain=replace(part.domain, signs=signs), split=split)
        for _ in range(3):
            # What is proven of the row is no more than the threshold.
            part = Narrowing(threshold=threshold, steps=6, row_steps=20, memory=2**24).sweep(part)
            if part.empty:
                break
        assert below.any()
        crossed += int(part.empty) + int(float(part.domain.value) > float(margins[below, row].amin()))
        values = []
        for step in graph.operations:
            values.append(step.apply(*(values[source] for source in step.sources)) if step.sources else points)
        for known, before, value in zip(part.tree.network.bounds, tree.network.bounds, values, strict=True):
            crossed += int(((value[below] < known.low) | (value[below] > known.high)).sum())
            asked += value[below].numel()
            gained += float(((before.high - before.low) - (known.high - known.low)).sum())
    return crossed, asked, gained


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("case", list(CASES))
def test_limits_hold_where_the_row_is_at_most_the_threshold(case, signed):
    crossed, asked, gained = crossings(case, signed)
    assert crossed == 0
    assert asked > 1000
    assert gained > 0.1


def test_planted_faults_are_seen(monkeypatch):
    """A row that is asked to be large, splits on the wrong side, a threshold that is not taken off."""
    weighted, less, bound = backward.Frontier.weighted, backward.Frontier.less, narrowing._Climb._bound

    def wrong_splits(self, *given):
        kept, self.splits = self.splits, [(*part, -signs) for *part, signs in self.splits]
        found = bound(self, *given)
        self.splits = kept
        return found

    faults = {
        "sign of the row": (backward.Frontier, "weighted", lambda self, weights: weighted(self, -weights)),
        "threshold": (backward.Frontier, "less", lambda self, number: less(self, number - 1.0)),
        "side of a split": (narrowing._Climb, "_bound", wrong_splits),
        "rows that wait": (backward.Frontier, "beside", lambda self, other, *_: replace(self, total=other.total)),
        "constants": (
            backward.Frontier,
            "weighted",
            lambda self, weights: replace(weighted(self, weights), total=0 * weights),
        ),
    }
    for name, (owner, attribute, wrong) in faults.items():
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, wrong)
            seen = sum(crossings(case, True)[0] for case in ("relu 1",))
        assert seen, name


def test_the_search_with_narrowed_limits_decides_as_points_do(monkeypatch):
    """From the first part on, and down to parts of two neurons, no example is called robust that a point breaks."""
    monkeypatch.setattr(narrowed_splitting, "FEW", 2)
    proven = broken = 0
    for case in CASES:
        network, shape, norm = CASES[case]()
        inputs = 0.3 + 0.4 * torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
        graph, labels = read(network, inputs), network(inputs).argmax(1)
        rows = margin_rows(labels, 3)
        for place, radius in enumerate((0.03, 0.06, 0.15)):
            one = slice(place, place + 1)
            region = Region.around(inputs[one], BOX, norm, radius)
            shown = []
            found = BranchAndBound(timeout=60.0, max_nodes=20_000, quick=1).branch(
                graph, region, rows[place], shown.append
            )
            least = (graph(sampled(region)) @ rows[place].T).amin(0)
            assert (found.run <= least).all()
            refuted = bool(shown) and bool((graph(shown[0]) @ rows[place].T < 0).any())
            assert not (refuted and bool(found.proven.all()))
            # Complete under linf, of pieces that are linear.
            assert refuted or bool(found.proven.all()) or norm == "l2" or case == "curved"
            proven, broken = proven + bool(found.proven.all()), broken + refuted
    assert proven >= 4
    assert broken >= 4
