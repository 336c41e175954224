"""Smallest changes found, against distances known in closed form or by exhaustion."""

import math

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.model.exact import linear_classifier, sphere_classifier
from trustbound.model.wrapping import wrap

SEEKERS = [("fmn", "linf"), ("fmn", "l2"), ("fmn", "l1"), ("fmn", "l0"), ("ddn", "l2")]


def linear(seed, features=20, classes=5):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, features, generator=generator)
    exact = linear_classifier(weight, 0.1 * torch.randn(classes, generator=generator))
    inputs = torch.rand(60, features, generator=generator)
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    return exact, inputs, labels


@pytest.mark.parametrize(("name", "norm"), SEEKERS)
def test_linear_models_with_the_box_in_play(name, norm):
    exact, inputs, labels = linear(1)
    radius = exact.exact_radius(inputs, labels, norm, inside_box=True)
    found = attack(name, exact.model, inputs, labels, f"{norm}:inf")
    assert found.success.all()
    ratio = found.size / radius
    assert ratio.min() >= 1 - 1e-5
    # Of several classes the search may settle for one that is not the nearest.
    if norm == "l0":
        assert (found.size - radius).float().mean() <= 0.35
        assert ratio.median() == 1
    else:
        assert ratio.median() <= 1.02
        assert ratio.quantile(0.9) <= 1.15


@pytest.mark.parametrize(("name", "norm"), [pair for pair in SEEKERS if pair[1] != "l0"])
def test_linear_models_far_from_the_box(name, norm):
    exact, inputs, labels = linear(2, classes=2)
    model = linear_classifier(
        exact.model.module.linear.weight.detach(), exact.model.module.linear.bias.detach(), box=(-50.0, 50.0)
    ).model
    radius = exact.exact_radius(inputs, labels, norm)
    found = attack(name, model, inputs, labels, f"{norm}:inf")
    assert found.success.all()
    ratio = found.size / radius
    assert ratio.min() >= 1 - 1e-5
    assert ratio.median() <= 1.01
    assert ratio.max() <= 1.05


@pytest.mark.parametrize("name", ["fmn", "ddn"])
def test_a_curved_boundary(name):
    exact = sphere_classifier(torch.full((10,), 0.5), 0.4)
    inputs = 0.5 + 0.1 * torch.randn(50, 10, generator=torch.Generator().manual_seed(1))
    labels = torch.zeros(50, dtype=torch.int64)
    radius = exact.exact_radius(inputs, labels, "l2")
    found = attack(name, exact.model, inputs, labels, "l2:inf")
    kept = radius > 0.02
    assert kept.sum() > 20
    assert found.success.all()
    ratio = (found.size / radius)[kept]
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= 1.02


def ball_points(norm, angles=360, rings=250):
    """Directions and lengths that cover a 2-D ball of radius 1, lengths measured in the norm."""
    angle = torch.linspace(0, 2 * math.pi, angles + 1, dtype=torch.float64)[:-1]
    direction = torch.stack([angle.cos(), angle.sin()], dim=1)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    direction = direction / torch.linalg.vector_norm(direction, ord=order, dim=1, keepdim=True)
    return direction, torch.arange(1, rings + 1, dtype=torch.float64) / rings


@pytest.mark.parametrize(("name", "norm"), [pair for pair in SEEKERS if pair[1] != "l0"])
def test_two_dimensional_networks_against_exhaustion(name, norm):
    """A trained ReLU net on the plane: a fine polar grid around each point gives the distance up to its mesh."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3))
    points = torch.rand(400, 2)
    classes = ((points[:, 0] - 0.5).square() + (points[:, 1] - 0.5).square() < 0.08).long() + (points[:, 0] > 0.75)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(points), classes).backward()
        optimiser.step()
    inputs = points[:24]
    with torch.no_grad():
        labels = net(inputs).argmax(1)
        direction, rings = ball_points(norm)
        reach = 0.5 * rings
        offsets = direction[:, None] * reach[:, None]
        distance = torch.full((24,), math.inf, dtype=torch.float64)
        for row in range(24):
            around = inputs[row].double() + offsets
            legal = ((around >= 0) & (around <= 1)).all(dim=2)
            broken = (net(around.float().reshape(-1, 2)).argmax(1) != labels[row]).reshape(legal.shape) & legal
            hit = broken.any(dim=0)
            if hit.any():
                distance[row] = reach[int(hit.int().argmax())]
    kept = distance.isfinite()
    assert kept.sum() >= 18
    found = attack(name, wrap(net), inputs, labels, f"{norm}:inf", steps=200)
    mesh = 0.5 / 250
    assert found.success.all()
    assert (found.size[kept] >= distance[kept] - 3 * mesh).all()
    excess = (found.size[kept] - distance[kept]) / distance[kept].clamp(min=4 * mesh)
    assert excess.median() <= 0.02
    assert (excess > 0.1).float().mean() <= 0.1


@pytest.mark.parametrize(("name", "norm"), SEEKERS)
def test_the_threat_caps_what_is_reported(name, norm):
    exact, inputs, labels = linear(3)
    radius = exact.exact_radius(inputs, labels, norm, inside_box=True)
    cap = float(radius.median()) * (1.0 if norm == "l0" else 1.001)
    found = attack(name, exact.model, inputs, labels, f"{norm}:{cap}")
    assert (found.size[found.success] <= cap + 20e-6).all()
    assert found.size[~found.success].isinf().all()
    assert torch.equal(found.adversarial[~found.success], inputs[~found.success])
    assert not found.success[radius > cap + 1e-6].any()
    near = radius <= cap * (1.0 if norm == "l0" else 0.95)
    assert found.success[near].float().mean() >= (0.7 if norm == "l0" else 0.9)


def test_quantised_ddn_stays_on_the_lattice():
    exact, inputs, labels = linear(4)
    inputs = (inputs * 255).round() / 255
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    found = attack("ddn", exact.model, inputs, labels, "l2:inf", levels=256)
    assert found.success.all()
    steps = found.adversarial.double() * 255
    assert (steps - steps.round()).abs().max() < 1e-4
    radius = exact.exact_radius(inputs, labels, "l2", inside_box=True)
    assert (found.size / radius)[radius > 0.1].median() < 1.05


def test_saturated_networks_do_not_stop_the_seekers():
    """At margins of 100 and more cross-entropy has no gradient in float32; the soft margin has."""
    exact, inputs, labels = linear(5)
    weight, bias = exact.model.module.linear.weight.detach(), exact.model.module.linear.bias.detach()
    steep = linear_classifier(1000 * weight, 1000 * bias).model
    for name in ("ddn", "fmn"):
        plain = attack(name, exact.model, inputs, labels, "l2:inf")
        sharp = attack(name, steep, inputs, labels, "l2:inf")
        assert sharp.success.all()
        ratio = sharp.size / plain.size
        assert (ratio < 1.1).float().mean() >= 0.9
        assert ratio.max() < 2
