"""The security curve: at every size it draws, true from both sides, and as tight as an attack at that size."""

import dataclasses

import pytest
import torch
from tests.audits.known import linear
from torch import nn

import trustbound as tb
from trustbound.attacks import attack
from trustbound.audits.planning import schedule as curve_stage
from trustbound.audits.work_units import proof
from trustbound.certificates import certify
from trustbound.record.record_file import read_record


def drawn(model, data, threat, **options):
    record = tb.audit(model, data, [threat], **{"budget": "quick", "curve_examples": len(data), **options})
    (curve,) = record.curves
    return record, curve


def ordered(record, curve):
    """lower ≤ upper ≤ clean accuracy at every size, both falling."""
    assert all(low <= high <= record.clean_accuracy for low, high in zip(curve.lower, curve.upper, strict=True))
    assert list(curve.upper) == sorted(curve.upper, reverse=True)
    assert list(curve.lower) == sorted(curve.lower, reverse=True)


def test_a_radius_beyond_a_distance_is_unsound(tmp_path, monkeypatch):
    """Both lie above the threat's epsilon, where no verdict contradicts another."""
    known = linear(n=40, low=0.4, high=0.6)
    epsilon = tb.Threat.parse(known.threat).perturbations.epsilon

    def boastful(*arguments, sizes=None, **options):
        honest = certify(*arguments, sizes=sizes, **options)
        if sizes is None:
            return honest
        less = certify(*arguments, sizes=sizes / 1.2, **options).certified
        return dataclasses.replace(honest, certified=torch.where(sizes > 1.44 * epsilon, less, honest.certified))

    monkeypatch.setattr(proof, "certify", boastful)
    with pytest.raises(tb.UnsoundError, match="inside a proven radius"):
        tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=40)
    record = read_record(tmp_path)
    radius = known.exact.exact_radius(known.data.inputs, known.data.labels, "linf", inside_box=True)
    wronged = known.correct & (radius > 1.2 * epsilon)
    assert record.exit_code == 3
    finding = next(check for check in record.checks if check.name == "disjoint-verdicts")
    assert finding.verdict == "FAIL"
    assert 0 < finding.value <= float(wronged.sum())
    assert record.brackets[0].lower == record.brackets[0].upper == known.truth  # at epsilon itself nothing is wrong
    ordered(record, record.curves[0])


def test_honest_radii_and_distances_never_meet():
    known = linear(n=40, low=0.4, high=0.6)
    record, curve = drawn(known.exact.model, known.data, known.threat)
    assert record.exit_code == 0
    ordered(record, curve)


class Edge(nn.Module):
    """Two classes that part at 0.5 in the first coordinate."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[:, 0] = torch.tensor([1.0, -1.0])
            self.linear.bias.copy_(torch.tensor([-0.5, 0.5]))

    def forward(self, inputs):
        return self.linear(inputs)


def on_the_edge():
    """Half of the examples stand closer to the boundary than the tolerance of sizes, which is 1e-6."""
    inputs = torch.full((40, 4), 0.8)
    inputs[:20, 0] = 0.5 + 5 * 2.0**-24
    labels = torch.zeros(40, dtype=torch.int64)
    labels[35:] = 1  # and some are misclassified
    return tb.wrap(Edge().double()), tb.LabelledSet(inputs, labels)


def test_what_is_not_proven_at_size_zero_is_not_counted_as_proven():
    model, data = on_the_edge()
    record, curve = drawn(model, data, "linf:0.1")
    ordered(record, curve)
    assert curve.epsilons[0] == 0.0
    assert record.clean_accuracy == 35 / 40
    assert curve.upper[0] == curve.lower[0] == 15 / 40
    assert curve.lower[16] == 15 / 40


def test_without_any_proof_nothing_is_proven_at_any_size(monkeypatch):
    known = linear(n=30, low=0.4, high=0.6)

    def timid(*arguments, sizes=None, **options):
        honest = certify(*arguments, sizes=sizes, **options)
        return honest if sizes is None else dataclasses.replace(honest, certified=torch.zeros_like(honest.certified))

    monkeypatch.setattr(proof, "certify", timid)
    record, curve = drawn(known.exact.model, known.data, known.threat)
    ordered(record, curve)
    epsilon = tb.Threat.parse(known.threat).perturbations.epsilon
    proven = record.brackets[0].lower  # the bracket's own proofs hold up to epsilon
    assert [low for at, low in zip(curve.epsilons, curve.lower, strict=True)] == [
        proven if at <= epsilon else 0.0 for at in curve.epsilons
    ]


class Scaled(nn.Module):
    def __init__(self, inner, scale):
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, inputs):
        return self.inner(inputs) * self.scale


@pytest.fixture(scope="module")
def digits():
    """A fully connected network on digits, trained against l∞ for a moment, and 40 test examples."""
    training, test = (tb.load_data("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    inputs, labels = training.inputs.float(), training.labels
    for _ in range(12):
        for rows in torch.randperm(len(inputs)).split(64):
            points = inputs[rows].clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(nn.functional.cross_entropy(net(points), labels[rows]), points)
            points = (inputs[rows] + 0.05 * slope.sign()).clamp(0, 1)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(points), labels[rows]).backward()
            optimiser.step()
    return net.eval().requires_grad_(False), test.stratified(40)


@pytest.mark.parametrize(
    ("norm", "epsilon", "scale"), [("linf", 0.08, 1.0), ("linf", 0.08, 1e-4), ("linf", 0.08, 1e4), ("l2", 0.45, 1e-4)]
)
def test_the_curve_stands_no_higher_than_one_attack_at_each_size(digits, norm, epsilon, scale):
    net, data = digits
    model = tb.wrap(net if scale == 1.0 else Scaled(net, scale))
    record, curve = drawn(model, data, f"{norm}:{epsilon}")
    ordered(record, curve)
    # The curve holds every witness of the bracket, and tells it what it finds itself.
    assert curve.epsilons[16] == pytest.approx(epsilon)
    assert curve.upper[16] == record.brackets[0].upper
    for point in (8, 14, 20):
        found = attack("smooth-pgd", net, data.inputs.float(), data.labels, f"{norm}:{curve.epsilons[point]}")
        standing = 1.0 - float(found.success.float().mean())
        assert 0.0 < standing < record.clean_accuracy
        assert curve.upper[point] <= standing + 0.02 + 1e-9
    # Twice what 100 steps of one search for the smallest change would cost.
    assert curve.cost.backwards <= 200 * len(data)


@pytest.mark.parametrize("access", ["scores", "decisions"])
def test_an_adversary_without_gradients_gets_no_curve(access):
    known = linear(n=20)
    blind = f"{known.threat};access={access}"
    record = tb.audit(known.exact.model, known.data, [blind], budget="quick")
    assert record.curves == ()
    assert record.brackets[0].upper < record.clean_accuracy
    assert not curve_stage.drawable(tb.Threat.parse(blind))
    for name in ("pgd", "fmn"):
        with pytest.raises(tb.UnsupportedError, match="access"):
            attack(name, known.exact.model, known.data.inputs, known.data.labels, blind)


@pytest.mark.parametrize("asked", [-1, 0.5, "a", True])
def test_a_count_of_the_curve_that_is_none_is_refused(asked):
    with pytest.raises(tb.errors.InputError, match="`curve_examples` must be a whole number"):
        curve_stage.curve_count(asked, "quick", 10)


class Weighted(nn.Module):
    """Two logits ±(w · x − 1): the distance in units of columns' widths is |w · x − 1| / Σ |w| · width."""

    def __init__(self, weights):
        super().__init__()
        self.layer = nn.Linear(len(weights), 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.stack([weights, -weights]))
            self.layer.bias.copy_(torch.tensor([-1.0, 1.0]))

    def forward(self, inputs):
        return self.layer(inputs)


def test_radii_of_columns_grow_together_along_the_curve(tmp_path):
    """No search for the smallest change serves them; runs of fixed size do, and the truth lies between the curves."""
    draw = torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 0.02, 3.0, 0.5])
    inputs = torch.rand(60, 4, generator=draw) * torch.tensor([1.0, 50.0, 0.2, 1.0])
    net, box = Weighted(weights), (-100.0, 200.0)
    with torch.no_grad():
        data = tb.LabelledSet(inputs, net(inputs).argmax(1), box=box, columns=("a", "b", "c", "fixed"))
    (tmp_path / "rules.toml").write_text("[c]\nradius = 0.004\n[fixed]\nimmutable = true\n")
    threat = tb.Threat.parse("linf:4%").resolved(data, columns=tmp_path / "rules.toml")
    record, curve = drawn(tb.wrap(net, box=box), data, threat)
    span = (inputs.amax(0) - inputs.amin(0)).double()
    reach = torch.stack([span[0], span[1], torch.tensor(0.1, dtype=torch.float64)])  # 0.004 at 4 %
    wide = (weights[:3].double() * reach).sum()
    size = (inputs.double() @ weights.double() - 1.0).abs() / wide  # the box is far
    assert curve.unit == "%"
    assert curve.epsilons[-1] == pytest.approx(0.08)
    assert record.brackets[0].certified > 0 < record.brackets[0].broken
    step = curve.epsilons[1]
    for at, upper, lower in zip(curve.epsilons, curve.upper, curve.lower, strict=True):
        assert lower <= float((size > at - 1e-6).double().mean()) + 1e-9
        assert upper >= float((size > at + 1e-5).double().mean()) - 1e-9
        assert upper - lower <= float(((size > at - step) & (size < at + step)).double().mean()) + 1e-9
    ordered(record, curve)
