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
    """At margins of 100 and more cross-entropy has no gradient in float32; what the seekers climb has."""
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


SCALES = [1e-9, 1e-4, 1.0, 1e4, 1e9]


def ten_classes(scale=1.0, width=1.0):
    """A linear 10-class model, far from the walls; the truth does not depend on the scale of its logits."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(10, 64, generator=generator)
    bias = 0.1 * width * torch.randn(10, generator=generator)
    inputs = width * (0.3 + 0.4 * torch.rand(40, 64, generator=generator))
    box = (0.0, width)
    with torch.no_grad():
        labels = linear_classifier(weight, bias, box=box).model(inputs).argmax(1)
    return linear_classifier(scale * weight, scale * bias, box=box), inputs, labels


@pytest.mark.parametrize(("name", "norm"), [pair for pair in SEEKERS if pair[1] != "l0"])
def test_the_scale_of_the_logits_changes_nothing(name, norm):
    true, inputs, labels = ten_classes()
    radius = true.exact_radius(inputs, labels, norm, inside_box=True)
    median, quantile = (1.06, 1.15) if norm == "l1" else (1.01, 1.05)
    for scale in SCALES:
        model = ten_classes(scale)[0].model
        found = attack(name, model, inputs, labels, f"{norm}:inf")
        ratio = found.size / radius
        assert found.success.all(), scale
        assert ratio.min() >= 1 - 1e-3, scale  # scaled weights are rounded anew, and some margins are small
        assert ratio.median() <= median, scale
        assert ratio.quantile(0.9) <= quantile, scale


@pytest.mark.parametrize(("name", "norm"), [pair for pair in SEEKERS if pair[1] in ("linf", "l2")])
@pytest.mark.parametrize("distance", [1e-4, 1e-3])
def test_the_nearest_boundary_is_found_however_near(name, norm, distance):
    """Examples moved to within a tiny distance of their boundary: no first length or step may be too long for it."""
    exact, inputs, labels = ten_classes()
    linear_layer = exact.model.module.linear
    weight, bias = linear_layer.weight.detach().double(), linear_layer.bias.detach().double()
    logits = inputs.double() @ weight.T + bias
    runner_up = logits.scatter(1, labels[:, None], -math.inf).argmax(1)
    towards = weight[runner_up] - weight[labels]
    gap = (logits.gather(1, labels[:, None]) - logits.gather(1, runner_up[:, None]))[:, 0]
    length = towards.norm(dim=1)
    near = (inputs.double() + ((gap / length - distance) / length)[:, None] * towards).float()
    inside = ((near >= 0) & (near <= 1)).all(1)
    with torch.no_grad():
        inside &= exact.model(near).argmax(1) == labels
    assert inside.sum() > 30
    near, labels = near[inside], labels[inside]
    radius = exact.exact_radius(near, labels, norm, inside_box=True)
    found = attack(name, exact.model, near, labels, f"{norm}:inf")
    assert found.success.all()
    assert (found.size / radius).max() <= 1.1


@pytest.mark.parametrize(("name", "norm"), [pair for pair in SEEKERS if pair[1] != "l0"])
def test_the_unit_of_the_inputs_changes_nothing(name, norm):
    """Pixels of 0 to 255 are the same question as pixels of 0 to 1."""
    exact, inputs, labels = ten_classes()
    wide, large, same = ten_classes(width=255.0)
    assert torch.equal(labels, same)
    found = attack(name, exact.model, inputs, labels, f"{norm}:inf")
    scaled = attack(name, wide.model, large, labels, f"{norm}:inf")
    assert scaled.success.all()
    torch.testing.assert_close((scaled.size / 255.0).median(), found.size.median(), rtol=0.01, atol=0.0)


def test_a_named_loss_is_climbed_throughout():
    exact, inputs, labels = ten_classes()
    for name in ("fmn", "ddn"):
        sizes = [
            attack(name, exact.model, inputs, labels, "l2:inf", steps=30, **more).size
            for more in ({}, {"loss": "margin"}, {"loss": "ce"})
        ]
        assert not torch.equal(sizes[0], sizes[1])
        assert sizes[2].median() > 1.005 * sizes[1].median()
