"""CROWN-IBP training: its loss is CROWN's bound over interval limits, it hands over to intervals and lifts proofs."""

import copy

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.relaxed_network import relax_network
from trustbound.certificates.region import Region
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import Batch, Context, CrownIBPTraining, IntervalTraining, Position
from trustbound.hardening.objectives.crown_ibp import crown_ibp
from trustbound.hardening.objectives.interval import region_limits, worst_logits
from trustbound.hardening.objectives.layer_intervals import layers_of
from trustbound.threat import Random, Threat


def network(pool=None):
    torch.manual_seed(1)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, stride=2),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Dropout(0.3),
        nn.Sequential(nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), pool or nn.AvgPool2d(2)),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.ReLU(),
        nn.Linear(12, 5),
    ).double()
    module[1].running_mean.normal_()
    module[1].running_var.uniform_(0.5, 2.0)
    model = tb.wrap(module.eval(), mean=[0.4, 0.5], std=[0.3, 0.6])
    return model, torch.rand(7, 2, 11, 11, dtype=torch.float64), torch.arange(7) % 5


def context_of(model, threat="linf:0.03"):
    return Context(model, Threat.parse(threat), shape=(2, 11, 11), rows=7)


def batch_of(inputs, labels):
    return Batch(inputs=inputs, labels=labels, random=Random(0, torch.arange(len(labels))))


def test_the_worst_logits_are_those_of_crown_over_interval_limits():
    """The certifier's own way back, over limits that nothing refines."""
    model, inputs, labels = network()
    graph = read(model, inputs)
    for radius in (0.0, 0.003, 0.03, 0.3):
        compare(model, graph, inputs, labels, radius)


def compare(model, graph, inputs, labels, radius):
    low, high = region_limits(context_of(model, f"linf:{radius}"), inputs, 1.0)
    worst = crown_ibp(layers_of(model), low, high, labels, {}).detach()
    assert (worst[torch.arange(7), labels] == 0).all()
    relaxed = relax_network(graph, Region.around(inputs, model.box, "linf", radius), lambda _, at, limits, bent: limits)
    eye = torch.eye(5, dtype=torch.float64)
    rows = Coefficients(owner=torch.arange(7), coefficients=eye[labels].unsqueeze(1) - eye)
    bound = propagate_backward(relaxed, len(graph.operations) - 1, rows)
    torch.testing.assert_close(-worst, bound.value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", [None, nn.MaxPool2d(2), nn.Sequential(nn.Sigmoid(), nn.AvgPool2d(2))])
def test_no_point_of_the_ball_reaches_beyond_them(pool):
    model, inputs, labels = network(pool)
    low, high = region_limits(context_of(model), inputs, 1.0)
    worst = crown_ibp(layers_of(model), low, high, labels, {}).detach()
    reached = torch.full_like(worst, -torch.inf)
    for _ in range(200):
        points = (inputs + 0.03 * (2 * torch.randint(2, inputs.shape) - 1)).clamp(0, 1)
        outputs = model(points).detach()
        reached = reached.maximum(outputs - outputs.gather(1, labels.unsqueeze(1)))
    assert (worst >= reached - 1e-12).all()
    # Nearer to what is reached than the intervals, on the whole.
    intervals = worst_logits(layers_of(model), low, high, labels, {}).detach()
    assert worst.sum() < intervals.sum()


def test_gradients_are_those_of_the_loss_in_train_mode_too():
    model, inputs, labels = network()
    model.module[3].p = 0.0
    objective = CrownIBPTraining(warm_up=0.0, ramp=0.0, clean_weight=0.3, crown_weight=0.6)

    def loss_of(changed):
        return objective.step(context_of(changed.train()), {}, batch_of(inputs, labels))[0]

    loss_of(model).backward()
    torch.manual_seed(0)
    for path in ("0.weight", "0.bias", "1.weight", "1.bias", "4.0.weight", "6.bias", "8.weight"):
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


def test_linear_bounds_are_given_over_to_intervals_as_the_radius_grows():
    objective = CrownIBPTraining(clean_weight=0.5, crown_weight=0.2, warm_up=0.2, ramp=0.6)
    assert [objective.weights(share) for share in (0.0, 0.2)] == [(0, 1, 1), (0, 1, 1)]
    assert objective.weights(0.8) == pytest.approx((1, 0.5, 0.2))
    assert objective.weights(0.4) == pytest.approx((0.5, 0.75, 0.6))
    model, inputs, labels = network()
    context = context_of(model)
    context.progress = Position(step=9, steps=10)
    given = {"warm_up": 0.0, "ramp": 0.5, "clean_weight": 0.0}

    def loss(kind, **more):
        return float(kind(**given, **more).step(context, {}, batch_of(inputs, labels))[0].detach())

    intervals = loss(IntervalTraining)
    mixed = [loss(CrownIBPTraining, crown_weight=weight) for weight in (0.0, 0.5, 1.0)]
    assert mixed[0] == intervals
    assert mixed[0] > mixed[1] > mixed[2]


def test_what_it_trains_is_provable():
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=100)
    shares = []
    for objective in ("standard", "crown-ibp"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 10)
            model = tb.wrap(nn.Sequential(*layers))
        threat = None if objective == "standard" else "linf:0.1"
        recipe = Recipe(objective=objective, threat=threat, probe=None, epochs=15, batch_size=64, learning_rate=5e-3)
        model = tb.train(model, train, recipe).model
        proofs = [tb.certify(name, model, test.inputs, test.labels, "linf:0.1") for name in ("interval", "crown")]
        shares.append([float(proof.certified.double().mean()) for proof in proofs])
    assert shares[1][0] > shares[0][0] + 0.25
    assert shares[1][1] > shares[0][1] + 0.25


def test_what_has_no_bounds_is_refused_by_name():
    data = tb.LabelledSet(torch.rand(2, 4), torch.tensor([0, 1]))
    module = nn.Sequential(nn.Linear(4, 2), nn.GELU())
    with pytest.raises(UnsupportedError, match=r"no intervals in training: 1 \(GELU\)"):
        tb.train(tb.wrap(module), data, Recipe(objective="crown-ibp", threat="linf:0.1", epochs=1))
    for given in ({"crown_weight": 1.5}, {"clean_weight": -1}, {"warm_up": 0.7}, {"ramp": float("nan")}):
        with pytest.raises(InputError, match=r"must lie in|warm_up ≤ ramp"):
            CrownIBPTraining(**given)
