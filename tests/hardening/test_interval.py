"""Interval training: the bound of its loss is the certifier's, differentiable, and what it trains is provable."""

import copy
import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.region import Region
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import Batch, Context, IntervalTraining, Position
from trustbound.hardening.objectives.interval import region_limits, worst_logits
from trustbound.hardening.objectives.layer_intervals import layers_of
from trustbound.threat import Random, Threat


def network():
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, stride=2),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Dropout(0.3),
        nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 5),
    ).double()
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2.0)
    model = tb.wrap(module.eval(), mean=[0.4, 0.5], std=[0.3, 0.6])
    inputs = torch.rand(7, 2, 11, 11, dtype=torch.float64)
    return model, inputs, torch.arange(7) % 5


def context_of(model, threat="linf:0.03"):
    return Context(model, Threat.parse(threat), shape=(2, 11, 11), rows=7)


def batch_of(inputs, labels):
    return Batch(inputs=inputs, labels=labels, random=Random(0, torch.arange(len(labels))))


@pytest.mark.parametrize("radius", [0.0, 0.01, 0.03, math.inf])
def test_the_worst_logits_are_those_of_the_interval_certifier(radius):
    model, inputs, labels = network()
    layers = layers_of(model)
    low, high = region_limits(context_of(model, f"linf:{radius}"), inputs, 1.0)
    worst = worst_logits(layers, low, high, labels, {})
    assert (worst[torch.arange(7), labels] == 0).all()
    others = worst.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)
    graph = read(model, inputs)
    bound = Interval().margins(graph, Region.around(inputs, model.box, "linf", radius), labels)
    torch.testing.assert_close(-others.detach(), bound.value, rtol=1e-4, atol=1e-4)


def test_without_a_last_linear_layer_logits_are_bounded_one_by_one():
    torch.manual_seed(0)
    model = tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh()).double())
    inputs, labels = torch.rand(6, 4, dtype=torch.float64), torch.arange(6) % 3
    context = Context(model, Threat.parse("linf:0.1"), shape=(4,), rows=6)
    worst = worst_logits(layers_of(model), *region_limits(context, inputs, 1.0), labels, {})
    reached = torch.full_like(worst, -math.inf)
    for _ in range(300):
        points = (inputs + 0.1 * (2 * torch.randint(2, inputs.shape) - 1)).clamp(0, 1)
        outputs = model(points)
        reached = reached.maximum(outputs - outputs.gather(1, labels.unsqueeze(1)))
    assert (worst >= reached - 1e-12).all()
    assert (worst[torch.arange(6), labels] == 0).all()


def test_batch_norm_in_training_uses_the_clean_batch():
    """At radius 0 the bound is the clean loss, in train mode too."""
    model, inputs, labels = network()
    model.module[3].p = 0.0
    context = context_of(model.train(), "linf:0")
    loss, _, metrics = IntervalTraining(warm_up=0.0, ramp=0.0, clean_weight=0.0).step(
        context, {}, batch_of(inputs, labels)
    )
    model.module[1].momentum = 0.0
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(inputs), labels))
    assert metrics["certified_accuracy"] == metrics["accuracy"]
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_gradients_are_those_of_the_loss():
    model, inputs, labels = network()
    objective = IntervalTraining(warm_up=0.0, ramp=0.0, clean_weight=0.3)

    def loss_of(changed):
        return objective.step(context_of(changed), {}, batch_of(inputs, labels))[0]

    loss_of(model).backward()
    torch.manual_seed(0)
    for path in ("0.weight", "1.weight", "1.bias", "4.0.weight", "6.bias", "8.weight"):
        weight = model.module.get_parameter(path)
        direction = torch.randn_like(weight)
        sides = []
        for step in (1e-6, -1e-6):
            changed = copy.deepcopy(model)
            with torch.no_grad():
                changed.module.get_parameter(path).add_(step * direction)
                sides.append(float(loss_of(changed).detach()))
        slope = (sides[0] - sides[1]) / 2e-6
        assert slope == pytest.approx(float((weight.grad * direction).sum()), rel=1e-3, abs=1e-6), path


def test_the_radius_and_the_weight_follow_the_share_that_is_done():
    objective = IntervalTraining(clean_weight=0.5, warm_up=0.2, ramp=0.6)
    assert [objective.weights(share) for share in (0.0, 0.2, 0.6, 1.0)] == [(0, 1), (0, 1), (1, 0.5), (1, 0.5)]
    assert objective.weights(0.4) == pytest.approx((0.5, 0.75))
    model, inputs, labels = network()
    context, losses = context_of(model), []
    for step in (0, 4, 9):
        context.progress = Position(step=step, steps=10)
        losses.append(float(objective.step(context, {}, batch_of(inputs, labels))[0].detach()))
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_it_trains_is_provable(norm):
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=100)
    threat, shares = f"{norm}:0.1", []
    for objective in ("standard", IntervalTraining()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10)
            model = tb.wrap(nn.Sequential(*layers))
        plain = objective == "standard"
        given = {"threat": None if plain else threat, "epochs": 25, "batch_size": 64, "learning_rate": 5e-3}
        recipe = Recipe(objective=objective, probe=None, **given)
        model = tb.train(model, train, recipe).model
        proof = tb.certify("interval", model, test.inputs, test.labels, threat)
        shares.append(float(proof.certified.double().mean()))
    assert shares[1] > 0.5
    assert shares[1] > shares[0] + 0.4


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return inputs + self.inner(inputs)


def test_what_has_no_interval_is_refused_by_name():
    labels = torch.tensor([0, 1])
    data = tb.LabelledSet(torch.rand(2, 4), labels)
    for module, words in (
        (nn.Sequential(nn.Linear(4, 2), Residual(nn.Linear(2, 2))), r"1 \(Residual\)"),
        (nn.Sequential(nn.Linear(4, 2), nn.GELU()), r"1 \(GELU\)"),
        (Residual(nn.Linear(4, 4)), r"the module \(Residual\)"),
    ):
        with pytest.raises(UnsupportedError, match=rf"no intervals in training: {words}"):
            tb.train(tb.wrap(module), data, Recipe(objective="interval", threat="linf:0.1", epochs=1))
    with pytest.raises(UnsupportedError, match="serves norm balls of real numbers; got l0"):
        tb.train(tb.wrap(nn.Linear(4, 2)), data, Recipe(objective="interval", threat="l0:1", epochs=1))
    for given in ({"clean_weight": 1.5}, {"warm_up": 0.7}, {"ramp": 2.0}, {"warm_up": "early"}):
        with pytest.raises(InputError, match=r"must lie in|warm_up ≤ ramp"):
            IntervalTraining(**given)
