"""Norm balls inside the box: projections, directions and starts against independent oracles."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from trustbound.record.box import Box
from trustbound.threat import NormBall, Random

NORMS = ["linf", "l2", "l1", "l0"]
CONVEX = ["linf", "l2", "l1"]
units = st.floats(0, 1, width=32)
wide = st.floats(-2, 3, width=32)


def around(norm, epsilon, inputs, box=(0.0, 1.0), radius=None):
    return NormBall(norm, epsilon).around(inputs, box, radius)


def norm_of(change, norm):
    flat = np.asarray(change, dtype=np.float64).reshape(len(change), -1)
    if norm == "l0":
        return (flat != 0).sum(1).astype(float)
    return np.linalg.norm(flat, ord={"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=1)


def nearest_convex(point, centre, epsilon, norm):
    """min ‖y − point‖ over ball ∩ box: bounded least squares, or SLSQP (l1 on y = centre + up − down)."""
    count = len(centre)
    if norm == "linf":
        low, high = np.maximum(0, centre - epsilon), np.minimum(1, centre + epsilon)
        return math.sqrt(2 * optimize.lsq_linear(np.eye(count), point, bounds=(low, high), method="bvls").cost)
    wish = point - centre
    lift = np.eye(count) if norm == "l2" else np.concatenate([np.eye(count), -np.eye(count)])
    if norm == "l2":
        bounds = list(zip(-centre, 1 - centre, strict=True))
        rest, slope = (lambda move: epsilon**2 - move @ move), (lambda move: -2 * move)
    else:
        bounds = [(0, room) for room in np.concatenate([1 - centre, centre])]
        rest, slope = (lambda parts: epsilon - parts.sum()), (lambda parts: -np.ones_like(parts))
    found = optimize.minimize(
        lambda parts: ((parts @ lift - wish) ** 2).sum(),
        np.zeros(len(lift)),
        jac=lambda parts: 2 * lift @ (parts @ lift - wish),
        bounds=bounds,
        constraints=[{"type": "ineq", "fun": rest, "jac": slope}],
        method="SLSQP",
        options={"maxiter": 200, "ftol": 1e-14},
    )
    return float(np.linalg.norm(found.x @ lift - wish))


def nearest_l0(point, centre, count):
    """Every support of the allowed size is tried."""
    best = math.inf
    for kept in itertools.combinations(range(len(centre)), min(count, len(centre))):
        candidate = centre.copy()
        candidate[list(kept)] = np.clip(point[list(kept)], 0, 1)
        best = min(best, float(np.linalg.norm(candidate - point)))
    return best


cases = st.integers(2, 5).flatmap(
    lambda size: st.tuples(st.lists(units, min_size=size, max_size=size), st.lists(wide, min_size=size, max_size=size))
)


@pytest.mark.parametrize("norm", CONVEX)
@given(case=cases, epsilon=st.floats(0.01, 1.5))
@settings(max_examples=40, deadline=None)
def test_projection_is_the_nearest_point(norm, case, epsilon):
    centre, point = (torch.tensor([values], dtype=torch.float64) for values in case)
    ball = around(norm, epsilon, centre)
    found = ball.project(point.clone())
    assert ball.contains(found).all()
    distance = float((found - point).norm())
    oracle = nearest_convex(point[0].numpy(), centre[0].numpy(), epsilon, norm)
    # The oracle meets its constraints to about 1e-8, ours rounds inward by 2⁻²¹ of the radius.
    assert distance == pytest.approx(oracle, abs=3e-6 + 1e-6 * epsilon)


@given(case=cases, count=st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_l0_projection_is_the_nearest_point(case, count):
    centre, point = (torch.tensor([values], dtype=torch.float64) for values in case)
    ball = around("l0", count, centre)
    found = ball.project(point.clone())
    assert ball.contains(found).all()
    oracle = nearest_l0(point[0].numpy(), centre[0].numpy(), count)
    assert float((found - point).norm()) == pytest.approx(oracle, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [3, 50, 3000])
@pytest.mark.parametrize("norm", NORMS)
def test_projections_are_inside_and_idempotent(norm, features, dtype):
    generator = torch.Generator().manual_seed(features)
    inputs = torch.rand(20, features, generator=generator, dtype=dtype).round(decimals=1)
    epsilon = {"linf": 0.1, "l2": 0.8, "l1": 2.0, "l0": 2}[norm]
    ball = around(norm, epsilon, inputs)
    theta = inputs + 3 * torch.randn(20, features, generator=generator, dtype=dtype)
    once = ball.project(theta.clone())
    assert once.dtype == dtype
    assert (norm_of((once.double() - inputs.double()).numpy(), norm) <= epsilon + ball.tolerance).all()
    assert once.min() >= 0
    assert once.max() <= 1
    assert ball.contains(once).all()
    np.testing.assert_allclose(ball.size(once).numpy(), norm_of(once.double() - inputs.double(), norm), rtol=1e-12)
    twice = ball.project(once.clone())
    torch.testing.assert_close(twice, once, rtol=0, atol=2e-6 if dtype == torch.float32 else 1e-6)
    inside = ball.project(inputs.clone())
    assert torch.equal(inside, inputs)


@pytest.mark.parametrize("norm", NORMS)
def test_rows_do_not_see_each_other(norm):
    """Rows that need many rounds of the projection beside rows that need one, alone and together."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.rand(64, 40, generator=generator).round(decimals=1)
    theta = inputs + torch.randn(64, 40, generator=generator) * torch.logspace(-3, 2, 64)[:, None]
    radius = torch.linspace(0.05, 3.0, 64, dtype=torch.float64)
    radius = radius.ceil() if norm == "l0" else radius
    whole = around(norm, math.inf, inputs, radius=radius).project(theta.clone())
    slope = torch.randn(64, 40, generator=generator)
    direction = around(norm, math.inf, inputs, radius=radius).steepest(whole, slope.clone())
    for first in range(64):
        rows = torch.tensor([first])
        ball = around(norm, math.inf, inputs[rows], radius=radius[rows])
        alone = ball.project(theta[rows].clone())
        torch.testing.assert_close(alone, whole[rows], rtol=0, atol=2e-7)
        torch.testing.assert_close(ball.steepest(alone, slope[rows].clone()), direction[rows], rtol=1e-5, atol=1e-7)


def test_l2_projection_gives_the_same_bits_whatever_its_neighbours_need():
    """The rounds of the projection end row by row: what the slowest row needs changes no other."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.rand(400, 16, generator=generator)
    theta = inputs + torch.randn(400, 16, generator=generator) * torch.logspace(-1, 2, 400)[:, None]
    whole = around("l2", 0.7, inputs).project(theta.clone())
    for first in range(0, 400, 2):
        rows = slice(first, first + 2)
        part = around("l2", 0.7, inputs[rows]).project(theta[rows].clone())
        assert torch.equal(part, whole[rows])


@pytest.mark.parametrize("norm", NORMS)
def test_radius_per_row_equals_one_ball_each(norm):
    inputs = torch.rand(6, 10, generator=torch.Generator().manual_seed(0))
    theta = inputs + torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    radius = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 1.0], dtype=torch.float64)
    radius = radius if norm == "l0" else radius / 4
    ball = around(norm, math.inf, inputs, radius=radius)
    for found in (ball.project(theta.clone()), around(norm, math.inf, inputs).project(theta.clone(), radius)):
        for row in range(6):
            one = around(norm, float(radius[row]), inputs[row : row + 1]).project(theta[row : row + 1].clone())
            torch.testing.assert_close(found[row : row + 1], one)
    assert torch.equal(ball.project(theta.clone())[0], inputs[0])
    kept = ball.select(torch.tensor([3, 1]))
    assert kept.radius.tolist() == [float(radius[3]), float(radius[1])]
    torch.testing.assert_close(kept.project(theta[[3, 1]].clone()), ball.project(theta.clone())[[3, 1]])


@pytest.mark.parametrize("norm", NORMS)
def test_inf_is_the_box(norm):
    inputs = torch.rand(3, 5)
    ball = around(norm, math.inf, inputs, box=(-1.0, 2.0))
    theta = 5 * torch.randn(3, 5)
    assert torch.equal(ball.project(theta.clone()), theta.clamp(-1, 2))
    assert (
        torch.equal(ball.scale(), torch.full((3,), Box(-1, 2).diameter(norm, 5), dtype=torch.float64))
        or (ball.scale() - Box(-1, 2).diameter(norm, 5)).abs().max() < 1e-9
    )


def test_eight_bit_steps_are_inside():
    """k/255 + 8/255 is inside 8/255 for every k, in float32, and the ball reaches it up to τ."""
    lattice = torch.arange(248, dtype=torch.float32) / 255
    inputs = lattice[:, None]
    for moved in (torch.arange(8, 256, dtype=torch.float32) / 255, lattice + 8 / 255):
        ball = around("linf", 8 / 255, inputs)
        assert ball.contains(moved[:, None]).all()
        assert (ball.project(moved[:, None].clone()) - moved[:, None]).abs().max() <= 1e-7
    assert not around("linf", 8 / 255, inputs).contains(inputs + 9 / 255).any()
    assert not around("linf", 8 / 255, inputs).contains(inputs + 8 / 255 + 3e-6).any()


def test_the_box_belongs_to_inside():
    inputs = torch.full((2, 3), 0.5)
    for norm in NORMS:
        ball = around(norm, math.inf, inputs)
        beyond = inputs.clone()
        beyond[1, 0] = 1.0000001
        assert ball.contains(beyond).tolist() == [True, False]


@pytest.mark.parametrize("norm", CONVEX)
def test_boxes_per_feature(norm):
    low, high = np.array([0.0, -1.0, 5.0]), np.array([1.0, 1.0, 9.0])
    inputs = torch.tensor([[0.5, 0.0, 8.0]])
    ball = around(norm, 100.0, inputs, box=(low, high))
    assert ball.project(torch.tensor([[9.0, -9.0, 99.0]])).tolist() == [[1.0, -1.0, 9.0]]
    assert ball.contains(torch.tensor([[1.0, -1.0, 9.0]])).all()
    assert not ball.contains(torch.tensor([[1.0, -1.5, 9.0]])).any()


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_directions_climb_best_and_see_the_box(norm):
    """Length one unit; blocked coordinates stand still; no random feasible direction climbs more."""
    generator = torch.Generator().manual_seed(6)
    inputs = torch.rand(8, 12, generator=generator, dtype=torch.float64).round()  # all at a limit
    gradient = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    ball = around(norm, 1.0 if norm == "l0" else 0.3, inputs)
    direction = ball.steepest(inputs.clone(), gradient.clone())
    blocked = ((inputs == 1) & (gradient > 0)) | ((inputs == 0) & (gradient < 0))
    assert (~blocked).any(dim=1).all()
    if norm != "linf":  # there the clip that follows holds them
        assert (direction[blocked] == 0).all()
    gained = (torch.where(blocked, 0.0, direction) * gradient).sum(1)
    length = norm_of(torch.where(blocked, 0.0, direction), "l1" if norm == "l0" else norm)
    np.testing.assert_allclose(length, 1.0, rtol=1e-9)
    free = torch.where(blocked, 0.0, gradient)
    best = {"linf": free.abs().sum(1), "l2": free.norm(dim=1), "l1": free.abs().amax(1), "l0": free.abs().amax(1)}[norm]
    torch.testing.assert_close(gained, best)
    for _ in range(200):
        other = torch.randn(8, 12, generator=generator, dtype=torch.float64).masked_fill(blocked, 0.0)
        other = other / torch.from_numpy(norm_of(other, "l1" if norm == "l0" else norm))[:, None]
        assert ((other * gradient).sum(1) <= gained + 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_vanished_and_tiny_gradients(norm):
    inputs = torch.full((3, 4), 0.5)
    gradient = torch.tensor([[0.0] * 4, [1e-30, -2e-30, 0.0, 0.0], [1e30, -2e30, 0.0, 0.0]])
    direction = around(norm, 1.0, inputs).steepest(inputs.clone(), gradient)
    assert direction.isfinite().all()
    assert (direction[0] == 0).all()
    torch.testing.assert_close(direction[1], direction[2])
    assert direction[1].abs().max() > 0.1


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_inside_and_independent_of_neighbours(norm):
    inputs = torch.rand(50, 9, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    ball = around(norm, {"linf": 0.2, "l2": 0.5, "l1": 1.0, "l0": 3}[norm], inputs)
    ids = torch.arange(50) + 100
    start = ball.start(Random(5, ids), 0)
    assert ball.contains(start).all()
    assert (ball.size(start) > 0).all()
    rows = torch.tensor([31, 2, 17])
    torch.testing.assert_close(ball.select(rows).start(Random(5, ids[rows]), 0), start[rows], rtol=0, atol=1e-7)
    assert not torch.equal(ball.start(Random(5, ids), 1), start)
    assert not torch.equal(ball.start(Random(6, ids), 0), start)
    assert torch.equal(ball.start(Random(5, ids), 0), start)
    unlimited = around(norm, math.inf, inputs)
    assert unlimited.contains(unlimited.start(Random(5, ids), 0)).all()


def test_starts_are_uniform():
    """Far from the box: each coordinate's law in linf, the radius' law in l2 and l1, the support's in l0."""
    inputs = torch.zeros(4000, 3, dtype=torch.float64)
    random = Random(17, torch.arange(4000))
    box = (-100.0, 100.0)
    cube = around("linf", 0.5, inputs, box).start(random, 0)
    for column in cube.T:
        assert stats.kstest(column.numpy(), "uniform", args=(-0.5, 1.0)).pvalue > 1e-3
    for norm in ("l2", "l1"):
        points = around(norm, 2.0, inputs, box).start(random, 0)
        share = (norm_of(points, norm) / 2.0) ** 3
        assert stats.kstest(share, "uniform").pvalue > 1e-3
        assert (np.abs(points.mean(0).numpy()) < 0.1).all()
        corner = (points > 0).double() @ torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
        assert stats.chisquare(np.bincount(corner.long().numpy())).pvalue > 1e-3
    sphere = around("l2", 2.0, inputs, box).start(random, 0)
    # By Archimedes each coordinate of a uniform direction in three dimensions is uniform.
    assert stats.kstest((sphere[:, 0] / sphere.norm(dim=1)).numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    sparse = around("l0", 1, inputs, box).start(random, 0)
    assert stats.chisquare((sparse != 0).sum(0).numpy()).pvalue > 1e-3
    assert stats.kstest(sparse[sparse != 0].numpy(), "uniform", args=(-100, 200)).pvalue > 1e-3
