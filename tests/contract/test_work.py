"""Every kind of work is a pure function of a unit of plain data and its subject."""

import dataclasses
import json
import pickle

import pytest
import torch

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.suites import SUITES, rounds, suite
from trustbound.audits.checks.context import Before, Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.checks.gradient_attacks import planned
from trustbound.audits.stages.verdicts import Round
from trustbound.audits.work_units.draws import derived_key
from trustbound.audits.work_units.execute import execute
from trustbound.audits.work_units.registry import KINDS
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import WorkUnit
from trustbound.record.codec import from_document, to_document
from trustbound.threat import Threat

THREATS = ("linf:0.1", "l2:0.4", "linf:0.1;access=scores", "linf:0.1;access=decisions", "brightness:0.3")


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(16, 12), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(12, 3)
    )
    model = tb.wrap(net.eval())
    inputs = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = tb.LabelledSet(inputs, model(inputs).argmax(1))
    return Subject(model=model, data=data, threats={name: Threat.parse(name) for name in THREATS})


def unit(kind, **more):
    asked = {
        "step": f"test/{kind}",
        "shard": 0,
        "kind": kind,
        "positions": (1, 4, 6, 7, 11, 20),
        "key": 5,
        "classes": 3,
    }
    return WorkUnit(**{**asked, **more})


def attack(name, params, threat, **more):
    return unit("attack", method=name, params=to_document(params), threat=threat, **more)


UNITS = {
    "clean": unit("clean"),
    "climb": attack("smooth-pgd", {"steps": 3, "sharpness": (16.0,)}, "linf:0.1"),
    "scaled": attack("margin-pgd", {"steps": 3}, "linf:0.1", logit_scale=0.25, batch_size=2),
    "distance": attack("fmn", {"steps": 8}, "l2:0.4", sizes=(0.5, 0.25, 1.0, 2.0, 0.125, 3.0)),
    "square": attack("square", {"steps": 20}, "linf:0.1;access=scores"),
    "decisions": attack("hopskipjump", {"steps": 2, "draws": 10, "tries": 20}, "linf:0.1;access=decisions"),
    "draws": attack("random", {"steps": 5}, "brightness:0.3"),
    "refused": attack("pgd", {"steps": 2}, "linf:0.1;access=scores"),
    "shared": unit("fit", method="uap", params={"passes": 2}, threat="linf:0.1"),
    "check": unit("check", positions=(), method="determinism", threat="linf:0.1"),
    "check of slopes": unit("check", positions=(), method="gradient-rate", threat="l2:0.4"),
    "interval": unit("proof", method="interval", threat="linf:0.1"),
    "crown": unit("proof", method="crown", threat="l2:0.4"),
    "no proof": unit("proof", method="crown", threat="brightness:0.3"),
    "sizes": unit("proof", method="crown", threat="linf:0.1", sizes=(1e-5,) * 3 + (1.0,) * 3),
}
every_unit = pytest.mark.parametrize("asked", UNITS.values(), ids=UNITS.keys())


def same(found, expected):
    """Bit for bit, but for what a clock says."""
    assert found.rows == expected.rows
    assert found.events == expected.events
    assert found.document == expected.document
    timeless = dataclasses.replace(found.cost, seconds=0.0)
    assert timeless == dataclasses.replace(expected.cost, seconds=0.0)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in found.tensors.items():
        assert torch.equal(tensor, expected.tensors[name])
        assert tensor.device.type == "cpu"


def test_every_kind_of_work_is_tried():
    assert {asked.kind for asked in UNITS.values()} == set(KINDS.names)


@every_unit
def test_a_unit_gives_the_same_bits_first_again_and_after_others(subject, asked):
    fresh = Subject(model=subject.model, data=subject.data, threats=subject.threats)
    first = execute(asked, fresh)
    assert [row.position for row in first.rows] == list(asked.positions)
    execute(attack("pgd", {"steps": 2}, "linf:0.1"), fresh)
    same(execute(asked, fresh), first)


@every_unit
def test_a_unit_and_its_subject_survive_the_way_to_another_process(subject, asked):
    expected = execute(asked, subject)
    sent, there = pickle.loads(pickle.dumps((asked, subject)))
    written = WorkUnit.from_document(json.loads(json.dumps(asked.document(), allow_nan=False)))
    assert written == sent == asked
    same(pickle.loads(pickle.dumps(execute(written, there))), expected)


@every_unit
def test_a_unit_leaves_model_and_randomness_as_they_were(subject, asked):
    model = subject.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [weight.requires_grad for weight in model.parameters()]
    state = torch.get_rng_state()
    execute(asked, subject)
    assert torch.equal(torch.get_rng_state(), state)
    assert [weight.requires_grad for weight in model.parameters()] == flags
    assert all(weight.grad is None for weight in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_check_is_given_what_the_search_found(subject):
    broken = torch.zeros(24, dtype=torch.bool)
    evidence = Evidence(broken=broken, certified=broken, rounds=(Round("last", tried=20, broke=5),))
    asked = unit("check", positions=(), method="search-exhausted", threat="linf:0.1")
    assert execute(asked, subject, (), evidence).document["value"] == 0.25


def test_a_check_as_work_says_what_it_says_elsewhere(subject):
    model, data, threat = subject.model, subject.data, subject.threats["l2:0.4"]
    key, attacks = derived_key(5, "checks"), planned("quick", threat)
    context = Before(model=model, inputs=data.inputs, labels=data.labels, threat=threat, key=key, attacks=attacks)
    found = execute(UNITS["check of slopes"], subject, attacks)
    examined = examine(context, ["gradient-rate"])
    assert found.document == to_document(examined.checks[0])
    assert found.cost.backwards == examined.cost.backwards > 0
    assert found.cost.purposes.keys() == {"checks"}


def test_findings_are_found(subject):
    """What the units above find is not nothing: attacks break, certifiers prove, refusals are said."""
    found = {name: execute(asked, subject) for name, asked in UNITS.items()}
    for name in ("climb", "scaled", "distance", "square", "decisions"):
        assert any(row.found for row in found[name].rows), name
        assert len(found[name].tensors["adversarial"]) == sum(row.found for row in found[name].rows)
    for row, size in zip(found["distance"].rows, UNITS["distance"].sizes, strict=True):
        assert row.size is None or row.size <= size + 1e-6
    assert [row.found for row in found["sizes"].rows] == [True] * 3 + [False] * 3
    assert any(row.margin is not None for row in found["interval"].rows)
    assert found["refused"].events[0].startswith("refused: ")
    assert found["no proof"].events[0].startswith("no proof")
    assert found["clean"].tensors["logits"].shape == (6, 3)


STAGES = [
    stage
    for budget in SUITES
    for threat in map(Threat.parse, ("linf:0.1", "l2:0.5", "l1:3", "rotation:10", "linf:0.1;access=scores"))
    for stage in (*suite(budget, threat), *rounds(budget, threat).kinds)
]


@pytest.mark.parametrize("smooth", [True, False])
def test_the_parameters_of_every_stage_survive_json(smooth):
    for stage in STAGES:
        name, params = stage.method(smooth=smooth)
        written = json.loads(json.dumps(to_document(params), allow_nan=False))
        assert from_document(ATTACKS.load(name), written) == ATTACKS.build(name, **params)
