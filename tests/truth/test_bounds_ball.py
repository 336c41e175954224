"""Rows over an l2 or l1 ball inside a box: the bound is the least value itself, by independent solvers."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize_scalar

from trustbound.certificates.region import Region


def case(norm, radius, seed, features=24):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(3, features, generator=generator).double()
    inputs = torch.where(inputs < 0.3, 0.0, torch.where(inputs > 0.8, 1.0, inputs))  # many cannot move one way
    rows = torch.randn(3, 4, features, generator=generator).double()
    rows[0, 0], rows[1, 1, : features // 2] = rows[0, 0].abs(), 0.0
    return Region.around(inputs, (0.0, 1.0), norm, radius), rows


def least_l1(row, centre, radius):
    """The linear programme: moves up and down, each ≥ 0, of which the sum is limited."""
    count = len(row)
    bounds = [(0, 1 - x) for x in centre] + [(0, x) for x in centre]
    found = linprog(np.concatenate([row, -row]), A_ub=np.ones((1, 2 * count)), b_ub=[radius], bounds=bounds)
    return found.fun + row @ centre


def least_l2(row, centre, radius):
    """The largest value of the dual function, by a scalar search over its multiplier."""
    limit = np.where(row > 0, centre, 1 - centre)

    def dual(log):
        moves = np.minimum(np.abs(row) / (2 * np.exp(log)), limit)
        return -(np.exp(log) * (moves @ moves) - np.abs(row) @ moves - np.exp(log) * radius**2)

    best = min(minimize_scalar(dual, bounds=(a, a + 2), method="bounded").fun for a in range(-12, 8))
    return max(-best, -np.abs(row) @ limit) + row @ centre


@pytest.mark.parametrize("radius", [0.01, 0.3, 1.0, 2.5, 40.0])
@pytest.mark.parametrize(("norm", "solve", "gap"), [("l1", least_l1, 1e-9), ("l2", least_l2, 1e-4)])
def test_the_least_value_over_ball_and_box(norm, solve, gap, radius):
    for seed in range(3):
        region, rows = case(norm, radius, seed)
        found = region.least(rows)
        for place in np.ndindex(*found.shape):
            row, centre = rows[place].numpy(), region.inputs[place[0]].numpy()
            true = solve(row, centre, radius)
            assert true - gap * np.abs(row @ centre - true) - 1e-9 <= float(found[place]) <= true + 1e-9


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_no_point_of_ball_and_box_lies_below(norm):
    for radius, seed in ((0.2, 5), (1.5, 6)):
        region, rows = case(norm, radius, seed)
        order, generator = (1 if norm == "l1" else 2), torch.Generator().manual_seed(seed)
        for _ in range(200):  # downhill moves of random lengths, put back into box and ball
            moves = -rows * torch.rand(rows.shape, generator=generator) ** 4 * torch.rand(1, generator=generator) * 9
            points = (region.inputs.unsqueeze(1) + moves).clamp(0, 1) - region.inputs.unsqueeze(1)
            size = torch.linalg.vector_norm(points, order, 2, keepdim=True)
            points = region.inputs.unsqueeze(1) + points * (radius / size).clamp(max=1)
            assert bool(((rows * points).sum(2) >= region.least(rows) - 1e-12).all())


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("scale", [1e-140, 1e-30, 1e30, 1e140])
def test_scales_of_rows_do_not_matter(norm, scale):
    region, rows = case(norm, 0.7, 1)
    plain, scaled = region.least(rows), region.least(rows * scale) / scale
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-9)


def test_what_cannot_move_costs_nothing():
    inputs = torch.tensor([[0.0, 0.0, 0.5]])
    ball = Region.around(inputs, (0.0, 1.0), "l2", 0.25)
    rows = torch.tensor([[[3.0, 4.0, 0.0], [3.0, 4.0, 1.0]]]).double()
    torch.testing.assert_close(ball.least(rows), torch.tensor([[0.0, 0.25]]).double(), rtol=0, atol=1e-12)
