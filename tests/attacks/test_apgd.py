"""APGD's schedule and moves against an independent transcription of the paper."""

import itertools
import math

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.gradient.apgd import checkpoints
from trustbound.errors import UnsupportedError


def test_checkpoints_are_the_papers():
    assert checkpoints(100) == (0, 22, 41, 57, 70, 80, 87, 93, 99)
    for steps in (1, 2, 5, 10, 37, 1000):
        marks = checkpoints(steps)
        assert marks[0] == 0
        assert all(first < second < steps for first, second in itertools.pairwise(marks)) or len(marks) == 1
    gaps = [second - first for first, second in zip(checkpoints(1000), checkpoints(1000)[1:], strict=False)]
    assert gaps == [220, 190, 160, 130, 100, 70, 60, 60]


def transcription(net, start, label, epsilon, steps, norm):
    """Algorithm 1 for one example, in plain Python and float64; returns the points in their order."""
    clean = start.clone()

    def value(x):
        return float(nn.functional.cross_entropy(net(x[None]), label[None]).detach())

    def slope(x):
        leaf = x.clone().requires_grad_(True)
        return torch.autograd.grad(nn.functional.cross_entropy(net(leaf[None]), label[None]), leaf)[0]

    def project(x):
        if norm == "linf":
            return torch.minimum(torch.maximum(x, clean - epsilon), clean + epsilon)
        change = x - clean
        return clean + change * min(1.0, epsilon / max(float(change.norm()), 1e-300))

    def ascent(x, eta):
        gradient = slope(x)
        return project(x + eta * (gradient.sign() if norm == "linf" else gradient / gradient.norm()))

    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    marks = [math.ceil(round(share * steps, 9)) for share in shares]
    eta, points, values = 2 * epsilon, [start], [value(start)]
    points.append(ascent(start, eta))
    values.append(value(points[1]))
    best = max(range(2), key=lambda i: values[i])
    best_point, best_value = points[best], values[best]
    before, halved, rises = values[0], False, [values[1] > values[0]]
    previous, current = points[0], points[1]
    last_mark = 0
    for k in range(1, steps):
        if k in marks:
            stalled = not halved and best_value <= before
            halved = sum(rises) < 0.75 * (k - last_mark) or stalled
            if halved:
                eta, current = eta / 2, best_point
                values[-1] = best_value
            before, rises, last_mark = best_value, [], k
        z = ascent(current, eta)
        moved = project(current + 0.75 * (z - current) + 0.25 * (current - previous))
        previous, current = current, moved
        points.append(moved)
        values.append(value(moved))
        rises.append(values[-1] > values[-2])
        if values[-1] > best_value:
            best_point, best_value = moved, values[-1]
    return points


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_point_is_the_papers(norm):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        net[0].weight.mul_(12.0)  # a rugged loss, on which the judgements differ between examples
    inputs = 0.5 + 0.1 * torch.randn(12, 5, dtype=torch.float64)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    epsilon, steps = 0.15, 60
    path = []

    def watch(step, problem, state):
        path.append(state.theta.clone())

    halvings = []
    attack(
        "apgd",
        nn.Sequential(net),
        inputs,
        labels,
        f"{norm}:{epsilon}",
        steps=steps,
        random_start=False,
        stop_early=False,
        watch=lambda step, problem, state: (watch(step, problem, state), halvings.append(state.step_size.clone())),
    )
    for row in range(12):
        expected = transcription(net, inputs[row], labels[row], epsilon, steps, norm)[1:]
        # Inside the box nothing is clipped; ours rounds radii inward by 2⁻²¹.
        found = torch.stack([points[row] for points in path])
        assert (found > 0).all()
        assert (found < 1).all()
        torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=2e-5)
    assert (halvings[-1] < halvings[0]).all()


def test_l0_is_refused_by_name():
    with pytest.raises(UnsupportedError, match="apgd serves linf, l2, l1"):
        attack("apgd", nn.Linear(2, 2), torch.rand(1, 2), torch.tensor([0]), "l0:1")
