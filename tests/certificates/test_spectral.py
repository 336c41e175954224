"""Norms of linear steps never lie below the largest singular value of the dense matrix, and not far above."""

import itertools

import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.graph.matrix_operations import Convolution, Mean
from trustbound.certificates.methods.lipschitz import constants
from trustbound.certificates.methods.spectral import convolution_norm, step_norm


def dense(step, extent):
    size = torch.Size(extent).numel()
    eye = torch.eye(size, dtype=torch.float64).reshape(size, *extent)
    return step.apply(eye).flatten(1).T


def convolution(kernel, stride, padding, dilation, groups, side=7, channels=(4, 6)):
    chance = torch.Generator().manual_seed(kernel * 100 + stride * 10 + padding)
    weight = torch.randn(channels[1], channels[0] // groups, kernel, kernel, generator=chance, dtype=torch.float64)
    out = (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return Convolution(
        sources=(0,),
        shape=(channels[1], out, out),
        weight=weight,
        stride=(stride, stride),
        padding=(padding, padding),
        dilation=(dilation, dilation),
        groups=groups,
        extent=(channels[0], side, side),
    )


CASES = [
    case
    for case in itertools.product((1, 2, 3, 5), (1, 2, 3), (0, 1, 2), (1, 2), (1, 2))
    if case[3] * (case[0] - 1) + 1 <= 7 and case[2] <= case[0]
]


@pytest.mark.parametrize("case", CASES)
def test_convolutions_are_bounded_from_above_and_closely(case):
    step = convolution(*case)
    truth = float(torch.linalg.matrix_norm(dense(step, step.extent), 2))
    found = convolution_norm(step)
    assert found >= truth
    # The torus adds what the plane's border loses: most of all where outputs are few.
    assert found <= 1.6 * truth


def test_large_planes_make_the_bound_tight():
    step = convolution(3, 2, 1, 1, 1, side=24, channels=(2, 3))
    truth = float(torch.linalg.matrix_norm(dense(step, step.extent), 2))
    assert truth <= convolution_norm(step) <= 1.02 * truth


def test_means_and_pools_have_closed_forms():
    mean = Mean(sources=(0,), shape=(3, 1, 1), axes=(2, 3), extent=(3, 4, 5))
    assert step_norm(mean) == pytest.approx(1 / 20**0.5, rel=1e-6)
    model = nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(1, 2)).double()
    gains = constants(read(model, torch.rand(1, 1, 6, 6, dtype=torch.float64)))
    # Average of 4: 1/2; a 3 × 3 window with stride 2 meets an input at most 4 times: × 2.
    assert gains[1] == pytest.approx(0.5, rel=1e-6)
    assert gains[2] == pytest.approx(1.0, rel=1e-6)


def test_the_constant_bounds_every_difference():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1))
            self.head = nn.Linear(12, 4)

        def forward(self, inputs):
            hidden = (inputs + self.body(inputs)).relu()
            hidden = nn.functional.max_pool2d(torch.cat([hidden, -hidden], 1), 3, 2, 1)
            return self.head(hidden.mean((1,)).reshape(-1, 9).flatten(1) @ torch.ones(9, 12).to(hidden) / 12)

    torch.manual_seed(0)
    model = Block()
    graph = read(model, torch.rand(1, 3, 6, 6))
    constant = constants(graph)[-1]
    first = torch.randn(500, 3, 6, 6, dtype=torch.float64)
    second = first + 0.1 * torch.randn(500, 3, 6, 6, dtype=torch.float64)
    ratio = (graph(first) - graph(second)).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
    assert 0 < ratio.max() <= constant
    assert constants(graph) is graph.cache["lipschitz"]
