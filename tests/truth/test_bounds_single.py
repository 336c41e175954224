"""Limits that are gone back for in float32: never above what exact arithmetic gives for the same lines, and close."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.operations import Activation
from trustbound.certificates.graph.reading import read
from trustbound.certificates.methods import backward_rounding
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.crown import Crown, unstable_rows
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork
from trustbound.certificates.methods.slopes import Ascent, optimised_slopes
from trustbound.certificates.region import Region


class Forked(nn.Module):
    """Convolutions, batch norm, one value read by four, a pool, a residual sum, two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.parts = nn.ModuleList(nn.Conv2d(6, 6, k, padding=k // 2) for k in (1, 3, 3))
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 20), nn.ReLU(), nn.Linear(20, 5))
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.1, 3)

    def forward(self, inputs):
        x = self.norm(self.first(inputs)).relu()
        return self.head((self.parts[0](x) + self.parts[1](x) - self.parts[2](x) - x).relu())


def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 30), nn.Tanh(), nn.Linear(30, 30), nn.GELU(), nn.Linear(30, 5))


def dense():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(72, 40), nn.ReLU(), nn.Linear(40, 40), nn.LeakyReLU(0.1), nn.Linear(40, 5)
    )


MODELS = {"forked": Forked, "smooth": smooth, "dense": dense}


def relaxed(model, radius=0.1, scale=1.0):
    model = model.eval()
    inputs = torch.rand(4, 2, 6, 6, generator=torch.Generator().manual_seed(1)) * scale
    graph, region = read(model, inputs), Region.around(inputs, (0.0, scale), "linf", radius * scale)
    return Crown().limits(graph, region)


def every_row(network: RelaxedNetwork):
    """Both signs of every neuron that an activation reads, and some rows of many coefficients."""
    for step in network.graph.operations:
        if isinstance(step, Activation | Smooth):
            start = step.sources[0]
            shape = (len(network.region), *network.graph.operations[start].shape)
            for rows, _ in unstable_rows(torch.ones(shape, dtype=torch.bool), 10_000, network.maps(start)):
                yield start, rows
            mixed = torch.randn(shape[0], 8, *shape[1:], generator=torch.Generator().manual_seed(2)).double()
            yield start, Coefficients(owner=torch.arange(shape[0]), coefficients=mixed)


def exactly(network: RelaxedNetwork) -> RelaxedNetwork:
    """The network with the lines that float32 holds, and nothing taken off: float64 in place of exact arithmetic."""
    held = {}
    for index, line in network.narrow.relaxations.items():
        if isinstance(line, LinearRelaxation):
            floor = None if line.floor is None else line.floor.double()
            line = LinearRelaxation(
                below=line.below.double(), above=line.above.double(), shift=line.shift.double(), floor=floor
            )
        else:
            line = replace(line, top=line.top.double())
        held[index] = line
    return replace(network, relaxations=held, noises=[None] * len(network.noises), narrow=None)


def gaps(network: RelaxedNetwork):
    """How far bounds in float32 lie below exact ones, and the magnitudes that these sum."""
    exact = exactly(network)
    for start, rows in every_row(network):
        found = propagate_backward(network.narrow, start, rows.single())
        best = propagate_backward(exact, start, replace(rows, coefficients=rows.coefficients.float().double()))
        size = network.bounds[start].size.flatten(1).amax(1)[rows.owner].unsqueeze(1)
        yield (best.value - found.run), (1 + size) * (1 + rows.coefficients.abs().flatten(2).sum(2))


@pytest.fixture(autouse=True)
def always(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(backward_rounding, "PAYS", 0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_bounds_in_float32_are_below_exact_ones_and_close(name, scale):
    for gap, size in gaps(relaxed(MODELS[name](), scale=scale)):
        assert bool((gap >= 0).all())
        assert scale != 1 or bool((gap <= 1e-3 * size).all())


def test_limits_are_those_of_float64_but_for_rounding(monkeypatch):
    model = Forked()
    narrow = relaxed(model)
    monkeypatch.setattr(backward_rounding, "PAYS", math.inf)
    wide = relaxed(model)
    assert wide.narrow is None
    assert narrow.narrow is not None
    for one, other in zip(narrow.bounds, wide.bounds, strict=True):
        assert float((one.low - other.low).abs().max()) < 1e-3 * float(other.size.max())


@pytest.mark.parametrize("name", ["forked", "dense"])
def test_bounds_with_slopes_of_their_own_are_below_exact_ones(name):
    network = relaxed(MODELS[name]())
    exact, single = exactly(network), network.single()
    for start, rows in every_row(network):
        slopes = optimised_slopes(network.narrow, single, start, rows, Ascent(steps=2, step_size=0.5), torch.zeros(()))
        found = propagate_backward(network.narrow, start, rows.single(), slopes=slopes)
        wide = {index: slope.double() for index, slope in slopes.items()}
        rows = replace(rows, coefficients=rows.coefficients.float().double())
        gap = propagate_backward(exact, start, rows, slopes=wide).value - found.run
        assert bool((gap >= 0).all())
        assert all(slope.dtype == torch.float32 for slope in slopes.values())
