"""No bound exceeds the truth where the truth is known: linear classifiers, and ReLU networks solved exactly."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.region import Region
from trustbound.metrics.margin import margin_rows

CERTIFIERS = (Interval(), Lipschitz(), Crown(), AlphaCrown())
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


def exact_margin(network, low, high, row, centre=None, radius=None, norm="linf"):
    """Minimise row · network over the region for one hidden layer of ReLUs: one programme per activation pattern."""
    first, second = network[0], network[2]
    w, b = (t.detach().double().numpy() for t in (first.weight, first.bias))
    v, c = (t.detach().double().numpy() for t in (second.weight, second.bias))
    best = np.inf
    for pattern in itertools.product((0.0, 1.0), repeat=len(b)):
        on = np.array(pattern)
        slope = (row @ v * on) @ w
        constant = (row @ v * on) @ b + row @ c
        sign = np.where(on > 0, -1.0, 1.0)
        rows, ends = w * sign[:, None], -b * sign
        if norm == "linf":
            found = linprog(slope, A_ub=rows, b_ub=ends, bounds=list(zip(low, high, strict=True)))
            best = min(best, found.fun + constant) if found.status == 0 else best
            continue
        if norm == "l1":
            # x = centre + plus − minus with sum(plus + minus) ≤ radius.
            n = len(centre)
            wide = np.vstack([np.hstack([rows, -rows]), np.ones((1, 2 * n)), np.eye(n, 2 * n) - np.eye(n, 2 * n, n)])
            wide = np.vstack([wide, -wide[-n:]])
            tops = np.concatenate([ends - rows @ centre, [radius], high - centre, centre - low])
            found = linprog(np.concatenate([slope, -slope]), A_ub=wide, b_ub=tops)
            best = min(best, found.fun + slope @ centre + constant) if found.status == 0 else best
            continue
        start = linprog(slope, A_ub=rows, b_ub=ends, bounds=list(zip(low, high, strict=True)))
        if start.status != 0:
            continue
        found = minimize(
            lambda x, slope=slope: slope @ x,
            np.clip(centre, low, high),
            jac=lambda x, slope=slope: slope,
            bounds=list(zip(low, high, strict=True)),
            constraints=[
                {"type": "ineq", "fun": lambda x, r=rows, e=ends: e - r @ x},
                {"type": "ineq", "fun": lambda x: radius**2 - ((x - centre) ** 2).sum()},
            ],
            method="SLSQP",
        )
        best = min(best, found.fun + constant) if found.success else best
    return best


def small(seed, features=2, hidden=5, classes=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@pytest.mark.parametrize("norm", ["linf", "l1", "l2"])
@pytest.mark.parametrize("seed", range(3))
def test_margins_never_exceed_the_exact_minimum(norm, seed):
    network = small(seed)
    inputs = torch.rand(2, 2, generator=torch.Generator().manual_seed(seed))
    graph = read(network, inputs)
    labels = network(inputs).argmax(1)
    for radius in (0.05, 0.3):
        region = Region.around(inputs, (0.0, 1.0), norm, radius)
        rows = margin_rows(labels, 3)
        found = [certifier.bounds(graph, region, rows).run for certifier in CERTIFIERS]
        for i, k in itertools.product(range(2), range(2)):
            low, high = region.low[i].numpy(), region.high[i].numpy()
            centre, row = region.inputs[i].numpy(), rows[i, k].numpy()
            truth = exact_margin(network, low, high, row, centre, radius, norm)
            # Programmes are solved to about 1e-6.
            assert all(float(bound[i, k]) <= truth + 1e-6 for bound in found)
            # A bound that is merely very low would pass: in a small region CROWN is close.
            if radius == 0.05:
                assert float(found[2][i, k]) >= truth - 0.05
            assert float(found[3][i, k]) >= float(found[2][i, k])


@given(
    seed=st.integers(0, 2**20),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    radius=st.floats(0.0, 0.4),
)
@settings(max_examples=15, deadline=None)
def test_linear_classifiers_are_bounded_exactly(seed, norm, radius):
    torch.manual_seed(seed)
    linear = nn.Linear(6, 4)
    inputs = 0.4 + 0.2 * torch.rand(2, 6)
    graph, labels = read(linear, inputs).without_rounding(), torch.tensor([seed % 4, 3])
    # The box is far away, so that the ball alone decides.
    region = Region.around(inputs, (-9.0, 9.0), norm, radius)
    rows = margin_rows(labels, 4).numpy()
    w, b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    clean = rows @ b + np.einsum("bkc,cf,bf->bk", rows, w, inputs.double().numpy())
    truth = clean - radius * np.linalg.norm(rows @ w, DUAL[norm], axis=2)
    for certifier in (Interval(), Crown(), AlphaCrown()) + ((Lipschitz(),) if norm == "l2" else ()):
        found = certifier.bounds(graph, region, torch.as_tensor(rows)).run.numpy()
        np.testing.assert_allclose(found, truth, atol=1e-6, rtol=0)
        assert (found <= truth + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_radius_reaches_the_exact_one_on_linear_classifiers(norm):
    torch.manual_seed(3)
    linear = nn.Linear(5, 3)
    inputs = 0.45 + 0.1 * torch.rand(6, 5)
    labels = linear(inputs).argmax(1)
    w, b = linear.weight.detach().double(), linear.bias.detach().double()
    rows = margin_rows(labels, 3)
    clean = (rows @ (inputs.double() @ w.T + b).unsqueeze(2)).squeeze(2)
    truth = (clean / torch.linalg.vector_norm(rows @ w, DUAL[norm], dim=2)).amin(1)
    box = (-20.0, 20.0)
    found = certified_radius(Crown(), read(linear, inputs), inputs, labels, box, norm, steps=30)
    assert (found <= truth).all()
    assert (found >= truth * 0.999 - 1e-5).all()


def test_radius_never_exceeds_the_exact_one_of_a_relu_network():
    network = small(11, hidden=6)
    with torch.no_grad():
        network[2].bias -= network(torch.full((1, 2), 0.5))[0]
    inputs = torch.tensor([[0.3, 0.5], [0.8, 0.2], [0.6, 0.7]])
    labels = network(inputs).argmax(1)
    graph = read(network, inputs)
    rows = margin_rows(labels, 3).numpy()

    def exactly(radii):
        region = Region.around(inputs, (0.0, 1.0), "linf", radii)
        return torch.tensor(
            [
                min(exact_margin(network, region.low[i].numpy(), region.high[i].numpy(), row) for row in rows[i])
                for i in range(3)
            ]
        )

    least, most = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for _ in range(7):
        middle = (least + most) / 2
        held = exactly(middle) > 0
        least, most = torch.where(held, middle, least), torch.where(held, most, middle)
    assert (most < 0.9).all()
    interval, crown = (
        certified_radius(certifier, graph, inputs, labels, (0.0, 1.0), "linf", steps=10)
        for certifier in (Interval(), Crown())
    )
    assert (interval > 0).all()
    assert (interval <= crown).all()
    assert (crown <= most).all()
    assert (crown >= 0.5 * least).all()
