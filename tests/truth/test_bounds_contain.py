"""Bounds hold for whatever a search can find inside the region, and come ordered."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.region import Region
from trustbound.metrics.margin import margin_rows

CERTIFIERS = (Interval(), Lipschitz(), Crown(), AlphaCrown())


class Residual(nn.Module):
    """Batch norm, a shortcut with its own convolution, a plain one, overlapping max pool, mean over the plane."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(6, 8, 1, stride=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs):
        hidden = self.norm(self.stem((inputs - 0.5) / 0.25)).relu()
        hidden = (self.body(hidden) + self.shortcut(hidden)).relu()
        hidden = hidden + nn.functional.leaky_relu(0.3 * hidden - 0.1, 0.2)
        return self.head(self.pool(hidden).mean((2, 3)))


class Branches(nn.Module):
    """Two branches side by side, a subtraction of two, relu6, permuted axes."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 3, dilation=2, padding=2), nn.Conv2d(1, 2, 5, padding=2)
        self.mixed = nn.Conv2d(4, 4, 3, groups=2)
        self.head = nn.Linear(4 * 5 * 5, 3)

    def forward(self, inputs):
        left, right = self.left(inputs).relu(), nn.functional.relu6(self.right(4 * inputs) + 1)
        hidden = torch.cat([left - right, right], 1).relu()
        return self.head(self.mixed(hidden).clamp(-0.5, 0.5).permute(0, 2, 3, 1).flatten(1))


def networks():
    torch.manual_seed(4)
    residual = Residual()
    for module in residual.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    yield "residual", (3, 8, 8), residual.eval()
    yield "branches", (1, 7, 7), Branches().eval()
    yield (
        "pools",
        (2, 9, 7),
        nn.Sequential(
            nn.Conv2d(2, 5, 3),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(10, 3),
        ),
    )


NETWORKS = {name: (shape, network) for name, shape, network in networks()}
RADII = {"linf": 0.04, "l2": 0.3, "l1": 0.3}


def inside(region, points):
    """Pull points back into ball ∩ box: towards the centre, which keeps them in the box."""
    points = points.clamp(region.low, region.high)
    if region.norm == "linf":
        return points
    away = (points - region.inputs).flatten(1)
    size = torch.linalg.vector_norm(away, 2 if region.norm == "l2" else 1, 1)
    share = (region.radius / size.clamp(min=1e-12)).clamp(max=1.0)
    return region.inputs + (points - region.inputs) * share.reshape(-1, *[1] * (points.ndim - 1))


def search(network, region, rows, chance):
    """Return the smallest row values over 10,000 random points and points driven down each row by its gradient."""
    count, least = len(region), torch.full(rows.shape[:2], torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(10):
            share = torch.rand(1000 * count, *region.inputs.shape[1:], generator=chance, dtype=torch.float64)
            share = torch.where(torch.rand(len(share), 1, 1, 1, generator=chance) < 0.5, share.round(), share)
            wide = region.select(torch.arange(count).repeat_interleave(1000))
            points = inside(wide, wide.low + (wide.high - wide.low) * share)
            values = network(points).reshape(count, 1000, -1) @ rows.mT
            least = torch.minimum(least, values.amin(1))
    for row in range(rows.shape[1]):
        points = region.inputs.clone()
        for step in range(40):
            points.requires_grad_()
            value = (network(points) * rows[:, row]).sum(1)
            least[:, row] = torch.minimum(least[:, row], value.detach())
            (gradient,) = torch.autograd.grad(value.sum(), points)
            reach = (region.high - region.low) * 0.5 * (1 - step / 40)
            peaks = gradient.abs().flatten(1).amax(1).reshape(-1, 1, 1, 1)
            moves = {
                "linf": gradient.sign(),
                "l2": gradient / peaks,
                "l1": gradient * (gradient.abs() == peaks) / peaks,
            }
            points = inside(region, points.detach() - reach * moves[region.norm])
    return least


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_bounds_hold_for_all_that_a_search_finds(name, norm):
    shape, network = NETWORKS[name]
    chance = torch.Generator().manual_seed(7)
    inputs = torch.rand(2, *shape, generator=chance)
    graph = read(network, inputs)
    region = Region.around(inputs, (0.0, 1.0), norm, RADII[norm])
    rows = margin_rows(torch.tensor([0, 1]), graph.classes)
    interval, lipschitz, crown, alpha = (certifier.bounds(graph, region, rows).run for certifier in CERTIFIERS)
    double = network.double()
    least = search(double, region, rows, chance)
    network.float()
    clean = torch.bmm(rows, graph(region.inputs).unsqueeze(2)).squeeze(2)
    for bound in (interval, lipschitz, crown, alpha):
        assert (bound <= least).all()
        assert (bound < clean).all()
    assert (crown >= interval).all()
    assert (alpha >= crown).all()
    assert (lipschitz >= interval).all()
    # CROWN allows no more than a factor beyond what the search finds: it is not vacuous.
    assert (clean - crown).mean() <= 12 * (clean - least).mean()


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_step_lies_within_its_limits(name, norm):
    shape, network = NETWORKS[name]
    chance = torch.Generator().manual_seed(8)
    inputs = torch.rand(2, *shape, generator=chance)
    graph = read(network, inputs)
    region = Region.around(inputs, (0.0, 1.0), norm, RADII[norm])
    limits = Crown().limits(graph, region).bounds
    share = torch.rand(200, *shape, generator=chance, dtype=torch.float64).round()
    for i in range(2):
        wide = region.select(torch.full((200,), i))
        values = [inside(wide, wide.low + (wide.high - wide.low) * share)]
        for step, reach in zip(graph.operations[1:], limits[1:], strict=True):
            values.append(step.apply(*(values[source] for source in step.sources)))
            assert (values[-1] >= reach.low[i]).all()
            assert (values[-1] <= reach.high[i]).all()


@pytest.mark.parametrize("certifier", CERTIFIERS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("norm", list(RADII))
def test_margins_fall_as_the_region_grows(certifier, norm):
    shape, network = NETWORKS["residual"]
    inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(9))
    graph, labels = read(network, inputs).without_rounding(), torch.tensor([2, 3])
    margins = [
        certifier.margins(graph, Region.around(inputs, (0.0, 1.0), norm, factor * RADII[norm]), labels).run
        for factor in (0.0, 0.01, 0.1, 0.4, 1.0)
    ]
    for nearer, farther in pairwise(margins):
        assert (nearer >= farther).all()
    clean = graph(inputs.double())
    truth = (margin_rows(labels, 4) @ clean.unsqueeze(2)).squeeze(2).amin(1)
    torch.testing.assert_close(margins[0], truth, atol=1e-9, rtol=0)
