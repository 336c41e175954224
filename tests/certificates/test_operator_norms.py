"""Norms of linear steps never lie below the largest singular value of the dense matrix, and not far above."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.graph.gathering import Gather
from trustbound.certificates.graph.matrix_operations import Convolution, Mean
from trustbound.certificates.graph.normalisation import Centre
from trustbound.certificates.graph.operations import Scale
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.operator_norms import (
    convolution_norm,
    dense_norm,
    largest_eigenvalue,
    operator_norm,
)


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


@pytest.mark.parametrize("case", CASES[::3])
def test_layers_small_enough_to_build_have_the_norms_of_their_matrices(case):
    step = convolution(*case)
    step = replace(step, bias=torch.ones(6, 1, 1, dtype=torch.float64))
    matrix = dense(replace(step, bias=None), step.extent)
    for norm, order in (("l2", 2), ("l1", 1), ("linf", math.inf)):
        truth = float(torch.linalg.matrix_norm(matrix, order))
        assert truth <= operator_norm(step, step.extent, norm) <= (1 + 1e-8) * truth


@pytest.mark.parametrize("wide", [False, True])
def test_large_matrices_are_proven_by_a_factor_and_never_below_the_truth(wide):
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(130, 200 if wide else 130, generator=chance, dtype=torch.float64)
    truth = float(torch.linalg.svdvals(weight)[0])
    assert truth <= dense_norm(weight) <= (1 + 1e-7) * truth
    # Equal and clustered largest values, and none but zero.
    left = torch.linalg.qr(weight[:, :130])[0]
    for sizes in (torch.ones(130), torch.linspace(1 - 1e-12, 1, 130), torch.eye(130)[0], torch.zeros(130)):
        matrix = left @ torch.diag(sizes.double()) @ left.T
        truth = float(sizes.max())
        assert truth * (1 - 1e-12) <= dense_norm(matrix) <= (1 + 1e-7) * truth + 1e-100


def test_a_wide_convolution_of_zeros_has_none():
    weight = torch.zeros(120, 100, 3, 3, dtype=torch.float64)
    step = replace(convolution(3, 1, 1, 1, 1, side=4, channels=(100, 120)), weight=weight)
    assert convolution_norm(step) < 1e-100
    weight[5, 7, 1, 1] = 2.0
    assert 2.0 <= convolution_norm(step) <= 2.0 + 1e-6


def test_an_estimate_that_is_too_low_is_not_believed(monkeypatch):
    import scipy.sparse.linalg

    monkeypatch.setattr(scipy.sparse.linalg, "eigsh", lambda matrix, *given, **more: (np.array([0.5]), None))
    grams = torch.diag(torch.linspace(0, 1, 120, dtype=torch.float64)).expand(3, -1, -1)
    assert 1.0 <= largest_eigenvalue(grams) <= 1 + 1e-9


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (30, 20), (20, 30)])
def test_matrices_of_any_scale_have_their_norm(scale, shape):
    weight = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = float(torch.linalg.svdvals(weight / scale)[0]) * scale
    assert truth <= dense_norm(weight) <= (1 + 1e-8) * truth + 1e-150
    assert dense_norm(0 * weight) == 0.0
    assert dense_norm(weight / 0) == math.inf


@pytest.mark.parametrize("side", [3, 9])
def test_transposed_convolutions_have_the_norm_of_their_matrix(side):
    """Built where they are small; else that of the convolution whose transpose they are."""
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    layer = nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1).double()
    layer.weight.data = weight
    step = read(nn.Sequential(layer, nn.Flatten()), torch.rand(1, 4, side, side, dtype=torch.float64)).operations[1]
    matrix = dense(replace(step, bias=None), step.extent)
    for norm, order in (("l2", 2), ("l1", 1), ("linf", math.inf)):
        truth = float(torch.linalg.matrix_norm(matrix, order))
        assert (
            truth
            <= operator_norm(step, step.extent, norm)
            <= (1 + (1e-8 if side == 3 or norm != "l2" else 0.05)) * truth
        )


def test_other_maps_are_bounded_by_rows_and_columns():
    step = Centre(sources=(0,), shape=(3, 4))
    assert 1.0 <= operator_norm(step, (3, 4)) <= 2.0


def test_moves_and_factors_have_closed_forms():
    index = torch.tensor([[0, 0, 0], [1, -1, 2]])
    picked = Gather(sources=(0,), shape=(2, 3), extent=(3,), index=index)
    factor = Scale(sources=(0,), shape=(3,), scale=torch.tensor([1.0, -4.0, 2.0], dtype=torch.float64))
    mean = Mean(sources=(0,), shape=(3, 1), axes=(2,), extent=(3, 4))
    for step, extent, known in (
        (picked, (3,), {"l2": 3**0.5, "l1": 3, "linf": 1}),
        (factor, (3,), {"l2": 4, "l1": 4, "linf": 4}),
        (mean, (3, 4), {"l2": 0.5, "l1": 0.25, "linf": 1}),
    ):
        for norm, truth in known.items():
            assert truth <= operator_norm(step, extent, norm) <= (1 + 1e-8) * truth


def test_large_planes_make_the_bound_tight():
    step = convolution(3, 2, 1, 1, 1, side=24, channels=(2, 3))
    truth = float(torch.linalg.matrix_norm(dense(step, step.extent), 2))
    assert truth <= convolution_norm(step) <= 1.02 * truth


def test_means_and_pools_have_closed_forms():
    mean = Mean(sources=(0,), shape=(3, 1, 1), axes=(2, 3), extent=(3, 4, 5))
    assert operator_norm(mean, mean.extent) == pytest.approx(1 / 20**0.5, rel=1e-6)
    model = nn.Sequential(nn.AvgPool2d(2), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(1, 2)).double()
    found = gains(read(model, torch.rand(1, 1, 6, 6, dtype=torch.float64)))
    # Average of 4: 1/2; a 3 × 3 window with stride 2 meets an input at most 4 times: × 2.
    assert found[1] == pytest.approx(0.5, rel=1e-6)
    assert found[2] == pytest.approx(1.0, rel=1e-6)


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
    constant = gains(graph)[-1]
    first = torch.randn(500, 3, 6, 6, dtype=torch.float64)
    second = first + 0.1 * torch.randn(500, 3, 6, 6, dtype=torch.float64)
    ratio = (graph(first) - graph(second)).norm(dim=1) / (first - second).flatten(1).norm(dim=1)
    assert 0 < ratio.max() <= constant
    assert gains(graph) is graph.cache["gains in l2"]
