"""`certify` from threat to proof: what counts as certified, and what is refused before any bound."""

import math
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from torch import nn

from trustbound.certificates import CertificationResult, certify
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.slack import growth
from trustbound.certificates.specification import Certifier
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.margin import margin_rows
from trustbound.record.box import Box
from trustbound.threat import Threat

BOX = (0.0, 1.0)
DETERMINISTIC = [row for row in CERTIFIERS if row.deterministic and row.layers]


def identity(classes=2):
    linear = nn.Linear(classes, classes, bias=False)
    nn.init.eye_(linear.weight)
    return linear


@pytest.mark.parametrize("name", [row.name for row in DETERMINISTIC])
def test_certified_follows_the_exact_radius(name):
    # margin 2 · (x₀ − 0.5) in a classifier whose exact l2 radius is (x₀ − x₁) / √2.
    inputs = torch.tensor([[0.75, 0.25], [0.55, 0.45], [0.5, 0.5], [0.25, 0.75]])
    labels = torch.zeros(4, dtype=torch.long)
    proof = certify(name, identity(), inputs, labels, Threat.parse("l2:0.3"), box=BOX)
    assert isinstance(proof, CertificationResult)
    assert proof.certified.tolist() == [True, False, False, False]
    truth = torch.tensor([0.5, 0.1, 0.0, -0.5], dtype=torch.float64) - 0.3 * math.sqrt(2)
    torch.testing.assert_close(proof.margin, truth, atol=1e-5, rtol=0)
    assert (proof.name, proof.seconds > 0, proof.margin.dtype) == (name, True, torch.float64)


def test_epsilon_is_proven_with_its_tolerance_and_rounding():
    threat = Threat.parse("linf:0.1")
    tau = threat.perturbations.tolerance(Box.of(BOX), 2)
    for surplus, wanted in ((1.5 * tau, True), (0.5 * tau, False), (0.0, False)):
        inputs = torch.tensor([[0.5 + 0.1 + surplus, 0.5 - 0.1 - surplus]], dtype=torch.float64)
        proof = certify("crown", identity().double(), inputs, torch.tensor([0]), threat, box=BOX)
        assert bool(proof.certified) is wanted
    # In float32 a margin below the rounding of the network is no proof, even at radius 0.
    close = torch.tensor([[0.5 + 2**-23, 0.5]])
    graph = read(identity(), close)
    region = Region.around(close, BOX, "linf", 0.0)
    bound = Crown().margins(graph, region, torch.tensor([0]))
    assert 0 < bound.value < bound.slack
    assert bound.run < 0


def test_wrong_predictions_and_nan_are_never_certified():
    inputs = torch.tensor([[0.2, 0.8]])
    for threat in ("linf:0", "linf:0.1", "l2:inf"):
        assert not certify("crown", identity(), inputs, torch.tensor([0]), Threat.parse(threat), box=BOX).certified
    graph = read(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), inputs)
    object.__setattr__(graph.operations[1], "weight", torch.full((2, 2), math.nan, dtype=torch.float64))
    for row in DETERMINISTIC:
        assert not certify(row.name, graph, inputs, torch.tensor([1]), Threat.parse("linf:0.1"), box=BOX).certified


def test_overflow_proves_nothing():
    # |W| · radius overflows to ∞ and ∞ − ∞ to NaN, though the weights are finite and the clean margin is positive.
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    for layer, size in ((model[0], 1e200), (model[2], 1e200), (model[4], 1.0)):
        layer.weight.data = size * torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
        nn.init.zeros_(layer.bias)
    inputs = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    model[4].bias.data[0] = 1.0
    assert model(inputs)[0, 0] > model(inputs)[0, 1]
    # The trial of `read` would refuse this network: it overflows on the trial's points too.
    graph = read(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), inputs.float())
    for place, layer in ((1, model[0]), (3, model[2]), (5, model[4])):
        object.__setattr__(graph.operations[place], "weight", layer.weight.data)
        object.__setattr__(graph.operations[place], "bias", layer.bias.data)
    for row in DETERMINISTIC:
        assert not certify(row.name, graph, inputs, torch.tensor([0]), Threat.parse("linf:0.1"), box=BOX).certified


def test_infinite_epsilon_means_the_box():
    inputs = torch.tensor([[0.75, 0.25]])
    always = nn.Linear(2, 2)
    nn.init.zeros_(always.weight)
    always.bias.data = torch.tensor([1.0, 0.0])
    for threat in ("linf:inf", "l2:inf", "l1:inf"):
        for name in ("interval", "crown", "lipschitz"):
            for model, wanted in ((always, True), (identity(), False)):
                proof = certify(name, model, inputs, torch.tensor([0]), Threat.parse(threat), box=BOX)
                assert bool(proof.certified) is wanted


def test_batches_do_not_change_what_is_proven():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    inputs = torch.rand(11, 4)
    labels = model(inputs).argmax(1)
    threat = Threat.parse("linf:0.05")
    whole, cut = (certify("crown", model, inputs, labels, threat, box=BOX, batch_size=b) for b in (None, 3))
    torch.testing.assert_close(whole.margin, cut.margin, atol=1e-12, rtol=0)
    assert torch.equal(whole.certified, cut.certified)
    assert whole.certified.any()
    again = certify(Crown(), read(model, inputs), inputs, labels, threat, box=BOX)
    assert torch.equal(again.margin, whole.margin)


def test_a_target_goal_needs_one_row_only():
    inputs, labels = torch.tensor([[0.6, 0.55, 0.1]]), torch.tensor([0])
    proofs = {
        goal: certify("interval", identity(3), inputs, labels, Threat.parse(f"linf:0.1{goal}"), box=BOX)
        for goal in ("", ";goal=target:1", ";goal=target:2", ";goal=target:0")
    }
    assert [bool(proof.certified) for proof in proofs.values()] == [False, False, True, False]
    assert math.isnan(float(proofs[";goal=target:0"].margin))


def test_params_reach_the_certifier_and_wrong_ones_are_refused():
    inputs, labels = torch.rand(2, 2), torch.zeros(2, dtype=torch.long)
    ask = ("crown", identity(), inputs, labels, "linf:0.1")
    assert torch.equal(certify(*ask, box=BOX, memory=2**12).margin, certify(*ask, box=BOX).margin)
    assert resolve("crown", memory=2**12)[0].memory == 2**12
    with pytest.raises(InputError, match="crown takes memory; got steps"):
        certify(*ask, box=BOX, steps=3)
    with pytest.raises(InputError, match="made already takes no parameters; got memory"):
        certify(Crown(), *ask[1:], box=BOX, memory=2**12)
    for memory in (0, -1, 1.5, True, "much"):
        with pytest.raises(InputError, match="`memory` must be a whole number of bytes"):
            certify(*ask, box=BOX, memory=memory)


def test_what_has_no_proof_is_refused():
    inputs, labels = torch.rand(2, 2), torch.zeros(2, dtype=torch.long)
    calls = []
    model = identity()
    model.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(UnsupportedError, match=r"lipschitz serves linf, l2, l1; got l0. Take one of interval, crown, "):
        certify("lipschitz", model, inputs, labels, Threat.parse("l0:1"), box=BOX)
    with pytest.raises(
        InputError, match=r"a certifier must be one of interval, lipschitz, crown, .*smoothing, trees, .*; got 'magic'"
    ):
        certify("magic", model, inputs, labels, Threat.parse("l2:1"), box=BOX)
    with pytest.raises(InputError, match="one class for each input"):
        certify("crown", model, inputs, labels[:1], Threat.parse("l2:1"), box=BOX)
    assert not calls
    with pytest.raises(InputError, match="needs the box"):
        certify("crown", identity(), inputs, labels, Threat.parse("l2:1"))
    with pytest.raises(InputError, match=r"must lie in the box \[0, 1\]; got \[2.*"):
        certify("crown", identity(), inputs + 2, labels, Threat.parse("l2:1"), box=BOX)
    with pytest.raises(InputError, match=r"`labels` must lie in 0 … 1; got 0 … 5"):
        certify("crown", identity(), inputs, torch.tensor([0, 5]), Threat.parse("l2:1"), box=BOX)
    with pytest.raises(UnsupportedError, match=r"no proof: 1 \(Mish\)"):
        certify("crown", nn.Sequential(identity(), nn.Mish()), inputs, labels, Threat.parse("l2:1"), box=BOX)
    with pytest.raises(InputError, match="`radius` must be a number ≥ 0"):
        Region.around(inputs, BOX, "l2", math.nan)
    with pytest.raises(InputError, match="`targets` must differ"):
        margin_rows(torch.tensor([1]), 3, torch.tensor([1]))


def test_rounding_bounds_what_float32_does():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(72, 40),
        nn.ReLU(),
        nn.Linear(40, 5),
    ).eval()
    model[1].running_mean.normal_()
    inputs = torch.rand(4, 1, 8, 8)
    graph = read(model, inputs)
    region = Region.around(inputs, BOX, "linf", 0.1)
    rows = torch.eye(5, dtype=torch.float64).expand(4, -1, -1)
    allowed = [certifier.bounds(graph, region, rows).slack for certifier in (Interval(), Lipschitz(), Crown())]
    points = region.low.float() + (region.high - region.low).float() * torch.rand(300, 4, 1, 8, 8)
    with torch.no_grad():
        single = model(points.flatten(0, 1)).double().unflatten(0, (300, 4))
        gap = (single - graph(points.flatten(0, 1).double()).unflatten(0, (300, 4))).abs().amax(0)
    assert (gap > 0).all()
    for bound in allowed:
        assert (gap <= bound).all()
        assert (bound < 1e-2).all()
    assert (allowed[2] < 2e-4).all()
    assert growth(10, torch.float32) == pytest.approx(26 * 2**-24, rel=1e-4)
    assert growth(10**9, torch.float32) == math.inf


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_radii_are_themselves_proven(norm):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
    inputs = torch.rand(8, 5)
    labels = model(inputs).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    graph = read(model, inputs)
    radii = certified_radius(Crown(), graph, inputs, labels, BOX, norm, tolerance=1e-4)
    assert radii[0] == 0
    assert (radii[1:] > 0).any()
    region = Region.around(inputs, BOX, norm, radii + 1e-4)
    held = Crown().margins(graph, region, labels).run > 0
    assert held[radii > 0].all()
    beyond = Region.around(inputs, BOX, norm, radii * 1.02 + 1e-2)
    assert not (Crown().margins(graph, beyond, labels).run > 0)[radii < Box.of(BOX).diameter(norm, 5)].any()
    assert (certified_radius(Interval(), graph, inputs, labels, BOX, norm, tolerance=1e-4) <= radii).all()
    assert (certified_radius(Crown(), graph, inputs, labels, BOX, norm, cap=1e-3) <= 1e-3).all()
    with pytest.raises(InputError, match="cap > 0"):
        certified_radius(Crown(), graph, inputs, labels, BOX, norm, cap=0.0)


def test_a_constant_classifier_is_certified_up_to_the_diameter():
    model = nn.Linear(4, 2)
    nn.init.zeros_(model.weight)
    model.bias.data = torch.tensor([1.0, 0.0])
    inputs = torch.rand(2, 4)
    found = certified_radius(Crown(), read(model, inputs), inputs, torch.tensor([0, 0]), BOX, "l2")
    assert found.tolist() == [2.0, 2.0]


def test_rows_of_the_registry_name_what_they_say():
    for row in CERTIFIERS:
        module, _, name = row.target.partition(":")
        kind = getattr(import_module(module), name)
        assert issubclass(kind, Certifier) is row.layers
        assert kind.__doc__ is not None
        assert "Reference" in kind.__doc__
        assert ">>>" in kind.__doc__
    assert len({row.name for row in CERTIFIERS}) == len(CERTIFIERS)
    file = import_module("trustbound.certificates.registry").__file__
    code = f"import runpy, sys; runpy.run_path({file!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_certify_stays_callable_after_its_module_was_imported():
    from trustbound import certificates

    for row in CERTIFIERS:
        import_module(row.target.partition(":")[0])
    import_module("trustbound.certificates.radius")
    import_module("trustbound.certificates.certifying")
    assert certificates.certify is certify
    assert callable(certificates.certify)


@pytest.mark.parametrize(("name", "norm"), [(row.name, norm) for row in DETERMINISTIC for norm in row.norms])
def test_a_sum_of_two_that_were_rounded_before_is_bounded(name, norm):
    class Shared(nn.Linear):
        def forward(self, inputs):
            shifted = inputs - 1 / 3
            return super().forward(torch.add(shifted, shifted, alpha=0.5))

    torch.manual_seed(0)
    net, inputs = Shared(4, 3), torch.rand(6, 4)
    size = 0 if norm == "l0" else 0.001
    proof = certify(name, net, inputs, net(inputs).argmax(1), Threat.parse(f"{norm}:{size}"), box=BOX)
    assert bool(proof.certified.any())


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_every_integer_kind_are_the_same_classes(kind):
    inputs = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.8, 0.3], [0.3, 0.9, 0.2]])
    labels, threat = torch.tensor([0, 1, 1]), Threat.parse("linf:0.1")
    wanted = certify("crown", identity(3), inputs, labels, threat, box=BOX)
    found = certify("crown", identity(3), inputs, labels.to(kind), threat, box=BOX)
    assert torch.equal(found.margin, wanted.margin)
    assert torch.equal(found.certified, wanted.certified)


@pytest.mark.parametrize(
    "given",
    [
        {"labels": [0, 1]},
        {"labels": torch.tensor([0.0, 1.0])},
        {"labels": torch.tensor([False, True])},
        {"labels": torch.tensor([[0], [1]])},
        {"labels": torch.tensor([0])},
        {"labels": torch.tensor([0, -1])},
        {"labels": torch.tensor([0, 3])},
        {"inputs": torch.full((2, 3), 0.5).numpy()},
        {"inputs": torch.zeros(2, 3, dtype=torch.int64)},
        {"batch_size": 0},
        {"batch_size": -1},
        {"batch_size": 1.5},
    ],
    ids=str,
)
def test_what_is_no_labelled_batch_is_refused_in_a_sentence(given):
    (name,) = given
    with pytest.raises(InputError, match=f"`{name}` must"):
        certify(
            "crown",
            identity(3),
            **{"inputs": torch.rand(2, 3), "labels": torch.tensor([0, 1]), **given},
            threat=Threat.parse("linf:0.1"),
            box=BOX,
        )
