"""Searches against each other, and against what a defect of another attack would hide."""

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.model.broken_models import SaturatedSoftmax, StopGradient
from trustbound.model.wrapping import wrap


@pytest.fixture(scope="module")
def trained():
    """A small convolutional net on stripes and noise, its correctly classified examples, a mild l∞ training."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    classes = torch.randint(0, 4, (600,), generator=generator)
    pictures = 0.4 + 0.2 * torch.rand(600, 1, 8, 8, generator=generator)
    for row, place in enumerate(classes.tolist()):
        pictures[row, 0, 2 * place : 2 * place + 2] += 0.22
        pictures[row, 0, :, 2 * place : 2 * place + 2] -= 0.12
    pictures = pictures.clamp(0, 1)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 4),
    )
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(60):
        rows = slice(200 * (step % 2), 200 * (step % 2) + 200)
        batch = pictures[rows].clone().requires_grad_(True)
        slope = torch.autograd.grad(nn.functional.cross_entropy(net(batch), classes[rows]), batch)[0]
        moved = (batch.detach() + 0.04 * slope.sign()).clamp(0, 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(moved), classes[rows]).backward()
        optimiser.step()
    with torch.no_grad():
        right = net(pictures[400:]).argmax(1) == classes[400:]
    assert right.float().mean() > 0.9
    return net, pictures[400:][right][:80], classes[400:][right][:80]


def broken(name, net, inputs, labels, threat, **params):
    generator = torch.Generator().manual_seed(1)
    return attack(name, net, inputs, labels, threat, generator=generator, **params).success


@pytest.mark.parametrize("threat", ["linf:0.1", "l2:0.65", "l1:2.5"])
def test_apgd_breaks_at_least_what_pgd_breaks(trained, threat):
    pgd = broken("pgd", *trained, threat, steps=40)
    apgd = broken("apgd", *trained, threat, steps=40)
    targeted = broken("apgd-t", *trained, threat, steps=40)
    assert 0.1 < apgd.float().mean() < 0.95
    assert apgd.sum() >= pgd.sum()
    assert targeted.sum() >= apgd.sum() - 1
    assert (apgd | ~pgd).float().mean() >= 0.97


@pytest.mark.parametrize(("threat", "least"), [("linf:0.12", 0.85), ("l2:0.9", 0.7)])
def test_random_search_comes_near_the_gradient_attacks(trained, threat, least):
    strongest = broken("apgd", *trained, threat, steps=60)
    searched = broken("square", *trained, f"{threat};access=scores", steps=600)
    assert searched.sum() >= least * strongest.sum()
    assert not (searched & ~broken("apgd-t", *trained, threat, steps=60)).sum() > 2


@pytest.mark.parametrize("norm", ["linf:0.12", "l2:0.9"])
def test_square_finds_what_dead_gradients_hide(trained, norm):
    net, inputs, labels = trained
    dead = StopGradient(net)
    gradient = broken("apgd", dead, inputs, labels, norm, steps=20, random_start=False)
    assert not gradient.any()
    assert broken("square", dead, inputs, labels, norm, steps=300).sum() >= 10


def test_a_saturated_softmax_does_not_hide_the_truth(trained):
    """softmax(200 · logits) starves cross-entropy of gradients; scores still tell the way."""
    net, inputs, labels = trained
    truth = broken("apgd", net, inputs, labels, "linf:0.15")
    assert truth.float().mean() > 0.9
    masked = SaturatedSoftmax(net)
    starved = broken("pgd", masked, inputs, labels, "linf:0.15", random_start=False, steps=20)
    assert starved.sum() < truth.sum()


def test_targets_exist_for_any_number_of_classes_and_cost_what_they_say():
    for classes in (2, 3, 4, 12):
        torch.manual_seed(classes)
        net = nn.Linear(6, classes)
        inputs = torch.rand(5, 6)
        with torch.no_grad():
            labels = net(inputs).argmax(1)
        found = attack("apgd-t", net, inputs, labels, "linf:0.0001", steps=3)
        assert not found.success.any()
        ranked = 0 if classes == 2 else min(classes - 1, 20)
        targets = min(classes - 1, 9)
        # the clean pass, the logits for the order, its gradients, the searches, the final check
        assert (found.forwards == 1 + 1 + ranked + 3 * targets + 1).all()
        assert (found.backwards == ranked + 3 * targets).all()


def test_targets_are_ordered_by_gap_over_slope():
    """Class 1 is nearer in logits, class 2 nearer in inputs: one target suffices when it is the right one."""
    net = nn.Linear(2, 3)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 10.0]]))
        net.bias.copy_(torch.tensor([1.0, 0.5, -5.0]))
    inputs = torch.tensor([[0.5, 0.5]])  # logits 1, 0.55, 0: gaps 0.45 at slope 0.1, 1 at slope 10
    labels = torch.tensor([0])
    assert attack("apgd-t", net, inputs, labels, "linf:0.11", targets=1, steps=10).success.all()
    assert not attack("apgd-t", net, inputs, labels, "linf:0.09", steps=10).success.any()


def test_a_named_class_gets_one_search(trained):
    net, inputs, labels = trained
    found = attack("apgd-t", net, inputs, labels, "linf:0.0001;goal=target:1", steps=4)
    missed = ~found.success
    assert (found.forwards[missed] == 1 + 4 + 1).all()


def test_pixels_at_the_box_move():
    """Inputs of exact zeros and ones, as most of MNIST is: no attack may be frozen there."""
    weight = torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0]])
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(weight)
        net.bias.zero_()
    inputs, labels = torch.tensor([[1.0, 0.0, 1.0, 0.0]]), torch.tensor([0])
    for name in ("pgd", "apgd", "fmn", "square"):
        assert attack(name, net, inputs, labels, "linf:0.52").success.all(), name
    for name in ("apgd", "fmn", "ddn"):
        found = attack(name, net, inputs, labels, "l2:1.02")
        assert found.success.all(), name
        assert found.size[0] >= 1.0


def test_the_first_success_is_kept_not_the_last_point(trained):
    """Each restart and each step may lose what an earlier one found; the answer may not."""
    net, inputs, labels = trained
    once = attack("pgd", net, inputs, labels, "linf:0.1", steps=5, restarts=1, stop_early=False)
    often = attack("pgd", net, inputs, labels, "linf:0.1", steps=5, restarts=4, stop_early=False)
    assert (often.success | ~once.success).all()
    overshoot = attack("pgd", net, inputs, labels, "linf:0.1", steps=30, step_size=0.05, stop_early=False)
    with torch.no_grad():
        assert torch.equal(net(overshoot.adversarial).argmax(1) != labels, overshoot.success)


def test_success_survives_rounding_the_right_way(trained):
    """Successes on the 8-bit lattice inside 8/255 are found from lattice inputs with lattice steps."""
    net, inputs, labels = trained
    lattice = (inputs * 255).round() / 255
    found = attack("pgd", wrap(net), lattice, labels, "linf:32/255", step_size=8 / 255, random_start=False, steps=8)
    steps = found.adversarial.double() * 255
    assert (steps - steps.round()).abs().max() < 1e-3
    assert found.success.any()
    saved = (found.adversarial * 255).round().to(torch.uint8)
    with torch.no_grad():
        reread = net(saved.float() / 255).argmax(1) != labels
    assert torch.equal(reread, found.success)
