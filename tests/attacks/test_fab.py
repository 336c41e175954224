"""FAB: shortest changes onto hyperplanes inside a box, and what the walk along the boundary finds."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.minimal.hyperplanes import shortest
from trustbound.errors import InputError
from trustbound.model.wrapping import wrap


def least(norm, normal, gap, down, up, near):
    """The smallest norm by a solver of linear or quadratic programs."""
    count = len(normal)
    limits = [(-low, high) for low, high in zip(down, up, strict=True)]
    if norm == "l1":
        sides = [(0, high) for high in up] + [(0, low) for low in down]
        return linprog(np.ones(2 * count), A_eq=[[*normal, *-normal]], b_eq=[gap], bounds=sides).fun
    if norm == "linf":
        unit, ones = np.eye(count), np.ones((count, 1))
        sides = np.vstack([np.hstack([unit, -ones]), np.hstack([-unit, -ones])])
        return linprog(
            [0] * count + [1],
            A_eq=[[*normal, 0]],
            b_eq=[gap],
            A_ub=sides,
            b_ub=np.zeros(2 * count),
            bounds=[*limits, (0, None)],
        ).fun
    meets = {"type": "eq", "fun": lambda change: normal @ change - gap}
    return math.sqrt(minimize(lambda change: (change**2).sum(), 0.9 * near, constraints=[meets], bounds=limits).fun)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_shortest_change_is_what_a_solver_finds(norm):
    noise = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.rand(shape, generator=noise, dtype=torch.float64)

    for turn in range(40):
        count = 1 + turn % 6
        normal = (draw(1, count) * 2 - 1) * (draw(1, count) > 0.2)
        down, up = draw(1, count), draw(1, count) * (draw(1, count) > 0.2)
        most = float((torch.where(normal > 0, up, down) * normal.abs()).sum())
        back = float((torch.where(normal < 0, up, down) * normal.abs()).sum())
        gap = draw(1) * (most if turn % 2 else -back)
        change = shortest(normal, gap, down, up, norm)
        assert bool(((change <= up + 1e-12) & (change >= -down - 1e-12)).all())
        assert float((normal * change).sum()) == pytest.approx(float(gap), abs=1e-12)
        order = {"linf": torch.inf, "l2": 2, "l1": 1}[norm]
        wanted = least(norm, normal[0].numpy(), float(gap), down[0].tolist(), up[0].tolist(), change[0].numpy())
        assert float(change.norm(p=order)) == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_where_the_box_is_too_small_all_of_it_is_used(norm):
    normal, room = torch.tensor([[1.0, -2.0, 0.0]]), torch.tensor([[0.5, 0.25, 1.0]])
    change = shortest(normal, torch.tensor([100.0]), room, room, norm)
    assert change.tolist() == [[0.5, -0.25, 0.0]]
    assert not bool(shortest(normal * 0, torch.tensor([1.0]), room, room, norm).any())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_row_does_not_depend_on_its_neighbours(norm):
    torch.manual_seed(0)
    normal, room, gap = torch.randn(32, 49), torch.rand(32, 49), torch.rand(32) * 9
    whole = shortest(normal, gap, room, room, norm)
    alone = [shortest(normal[i : i + 1], gap[i : i + 1], room[i : i + 1], room[i : i + 1], norm) for i in range(32)]
    assert torch.equal(whole, torch.cat(alone))


@pytest.mark.parametrize("name", ["fab", "fab-t"])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_distances_of_linear_models(name, norm, dual):
    torch.manual_seed(0)
    net, inputs = nn.Linear(10, 5), torch.rand(30, 10)
    logits = net(inputs).detach().double()
    labels, weight = logits.argmax(1), net.weight.detach().double()
    steep = (weight[labels].unsqueeze(1) - weight).norm(p=dual, dim=2)
    gaps = (logits.gather(1, labels[:, None]) - logits) / steep.clamp(min=1e-9)
    truth = gaps.scatter(1, labels[:, None], torch.inf).amin(1)
    found = attack(name, wrap(net, box=(-50.0, 50.0)), inputs, labels, f"{norm}:inf", steps=20)
    assert bool(found.success.all())
    ratio = found.size / truth
    assert 1.0 <= float(ratio.min())
    assert float(ratio.max()) < 1.01


def test_the_nearest_boundary_may_be_that_of_a_class_of_low_logit():
    # Class 1 is second best and far away, class 2 last and close.
    net = nn.Linear(2, 3, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.0], [0.99, 0.0], [-1.0, 40.0]])
    inputs, labels = torch.tensor([[0.5, 0.0]]), torch.tensor([0])
    model = wrap(net, box=(0.0, 1.0))
    for name, params in (("fab", {}), ("fab-t", {"targets": 2})):
        found = attack(name, model, inputs, labels, "l2:inf", steps=20, **params)
        assert float(found.size) == pytest.approx(1 / math.sqrt(4 + 1600), rel=0.02)
    assert float(attack("fab-t", model, inputs, labels, "l2:inf", steps=20, targets=1).size) > 0.4


def test_what_lies_outside_the_set_counts_for_nothing():
    net = nn.Linear(2, 2, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    inputs, labels = torch.tensor([[0.8, 0.2], [0.55, 0.45]]), torch.tensor([0, 0])
    for seeks in ("any", "smallest"):
        found = attack("fab-t", wrap(net), inputs, labels, "linf:0.1", steps=10, seeks=seeks)
        assert found.success.tolist() == [False, True]
        # The walk stood beyond the boundary, at 0.3: outside, and no sign that the example is nearly broken.
        assert float(found.margin[0]) > 0.35
    with pytest.raises(InputError, match="seeks"):
        attack("fab", wrap(net), inputs, labels, "linf:0.1", seeks="largest")


def test_seeking_any_stops_where_seeking_the_smallest_goes_on():
    torch.manual_seed(1)
    net, inputs = nn.Linear(6, 4), torch.rand(20, 6)
    labels = net(inputs).argmax(1)
    one, other = (
        attack("fab-t", wrap(net), inputs, labels, "l2:2", steps=30, seeks=seeks) for seeks in ("any", "smallest")
    )
    assert bool((one.success == other.success).all())
    assert one.cost.forwards < 0.4 * other.cost.forwards
    assert bool((one.size[one.success] >= other.size[one.success]).all())


def test_later_starts_find_what_the_first_cannot():
    # From the clean input the gradient is zero everywhere: only a start away from it can move.
    class Flat(nn.Module):
        def forward(self, inputs):
            far = (inputs[:, 0] - 0.5).abs() - 0.2
            return torch.stack([torch.zeros_like(far), 50 * far.relu() - 1], 1)

    inputs, labels = torch.full((12, 2), 0.5), torch.zeros(12, dtype=torch.int64)
    model = wrap(Flat())
    assert not attack("fab-t", model, inputs, labels, "linf:0.5", steps=10).success.any()
    found = attack("fab-t", model, inputs, labels, "linf:0.5", steps=10, starts=4)
    assert int(found.success.sum()) >= 6
    assert float(found.size[found.success].min()) < 0.25
