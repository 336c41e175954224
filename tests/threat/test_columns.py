"""l∞ in units of a table's columns: text, radii, what may change and what may not, against brute force and proofs."""

import itertools
import json

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates import certify
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import wrap
from trustbound.record.box import Box
from trustbound.threat import Random, Threat
from trustbound.threat.sets.columns import ColumnBall

NAMES = ("age", "income", "sex", "red", "green")
LOW, HIGH = [18.0, 0.0, 0.0, 0.0, 0.0], [90.0, 1e5, 1.0, 1.0, 1.0]


def table(rows=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    age = torch.randint(18, 91, (rows,), generator=generator).float()
    income = (torch.rand(rows, generator=generator) * 1e5).float()
    sex, red = (torch.randint(0, 2, (rows,), generator=generator).float() for _ in range(2))
    inputs = torch.stack([age, income, sex, red, 1 - red], dim=1)
    inputs[0], inputs[1] = torch.tensor(LOW), torch.tensor(HIGH)
    inputs[0, 4], inputs[1, 4] = 1.0, 0.0
    labels = ((age - 54) / 72 + (income - 5e4) / 1e5 + 0.3 * (red - 0.5) > 0).long()
    return LabelledSet(inputs, labels, box=Box(torch.tensor(LOW).numpy(), torch.tensor(HIGH).numpy()), columns=NAMES)


RULES = {
    "age": {"radius": 5, "integer": True},
    "sex": {"immutable": True},
    "red": {"one_hot": "colour"},
    "green": {"one_hot": "colour"},
}


def network(data, seed=0):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2))
    mean, std = data.inputs.mean(0), data.inputs.std(0)
    model = wrap(made, box=data.box, mean=mean, std=std)
    optimizer = torch.optim.Adam(made.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data.inputs), data.labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("text", ["linf:5%", "linf:0.1*std", "linf:0.25*range", "linf:columns", "linf:7%", "linf:0.3%"])
def test_the_text_reads_back_before_and_after_the_data_are_seen(text):
    threat = Threat.parse(text)
    assert str(threat) == text
    resolved = threat.resolved(table(), {"age": {"radius": 5}})
    assert str(resolved) == text
    assert isinstance(resolved.perturbations, ColumnBall)
    assert resolved.perturbations.epsilon == threat.perturbations.epsilon
    assert str(Threat.parse(f"{text};goal=target:1;access=scores")) == f"{text};goal=target:1;access=scores"


def test_radii_are_those_of_the_columns():
    data = table()
    radii = {one.name: one for one in Threat.parse("linf:5%").resolved(data).perturbations.radii}
    for name, low, high in zip(NAMES, LOW, HIGH, strict=True):
        assert radii[name].radius == pytest.approx(0.05 * (high - low), rel=1e-9)
    by_std = Threat.parse("linf:0.1*std").resolved(data).perturbations.radii
    wanted = 0.1 * data.inputs.double().std(0, correction=0)
    assert [one.radius for one in by_std] == pytest.approx(wanted.tolist(), rel=1e-9)
    own = {one.name: one for one in Threat.parse("linf:5%").resolved(data, RULES).perturbations.radii}
    assert (own["age"].radius, own["age"].kind) == (pytest.approx(5), "integer")
    assert (own["sex"].radius, own["sex"].kind) == (0.0, "immutable")
    assert (own["red"].radius, own["green"].radius) == (0.0, 0.0)
    assert own["income"].radius == pytest.approx(5000)
    plain = {one.name: one.radius for one in Threat.parse("linf:0.5").resolved(data, RULES).perturbations.radii}
    assert (plain["age"], plain["income"], plain["sex"]) == (pytest.approx(5), pytest.approx(0.5), 0.0)


def test_units_are_those_of_all_rows_that_were_read_and_of_training_data_where_they_are_given():
    data = table()
    few = data.take([3, 4, 5])
    assert Threat.parse("linf:5%").resolved(few).perturbations == Threat.parse("linf:5%").resolved(data).perturbations
    wide = data.inputs.clone()
    wide[:, 1] /= 2
    other = LabelledSet(wide, data.labels, box=data.box, columns=NAMES)
    assert Threat.parse("linf:5%").resolved(data.measured_by(other.columns)).perturbations.widths[1] == 5e4
    with pytest.raises(InputError, match="both tables need the same columns"):
        data.measured_by(LabelledSet(wide, data.labels, box=data.box, columns=list("abcde")).columns)


@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_rules_come_from_a_file(tmp_path, suffix):
    path = tmp_path / f"columns.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(RULES))
    else:
        path.write_text(
            '[age]\nradius = 5\ninteger = true\n[sex]\nimmutable = true\n[red]\none_hot = "colour"\n'
            '[green]\none_hot = "colour"\n'
        )
    data = table()
    assert Threat.parse("linf:5%").resolved(data, path) == Threat.parse("linf:5%").resolved(data, RULES)


@pytest.mark.parametrize(
    ("text", "rules", "said"),
    [
        ("linf:5%", {"agee": {"radius": 5}}, r"no column 'agee'.*Did you mean 'age'"),
        ("linf:5%", {"age": {"radiu": 5}}, r"column 'age': keys are .*Did you mean 'radius'"),
        ("linf:5%", {"age": {"radius": "much"}}, r"column 'age': radius is a number"),
        ("linf:5%", {"age": {"radius": -1}}, r"column 'age': radius is a number"),
        ("linf:5%", {"age": {"immutable": 1}}, r"column 'age': immutable is true or false"),
        ("linf:5%", {"age": {"immutable": True, "radius": 1}}, r"column 'age' is immutable, and has a radius"),
        ("linf:5%", {"age": 5}, r"column 'age': a table of"),
        ("linf:5%", {"income": {"integer": True}}, r"column 'income' is said to be integer; row \d+ holds"),
        ("linf:5%", {"red": {"one_hot": "c"}, "sex": {"one_hot": "c"}}, r"sex, red are said to be the one-hot group"),
        ("linf:columns", {}, "linf:columns takes each column's own radius"),
        ("linf:0", {"age": {"radius": 5}}, "cannot scale"),
        ("l2:1", {"age": {"radius": 5}}, "holds under linf; the threat is l2:1"),
        ("rotation:3", {"age": {"radius": 5}}, "holds under linf"),
        ("linf:5%", {name: {"immutable": True} for name in NAMES}, "leaves no column that may change"),
    ],
)
def test_errors_name_the_column(text, rules, said):
    with pytest.raises(InputError, match=said):
        Threat.parse(text).resolved(table(), rules)


def test_units_need_data_and_data_need_columns():
    data = table()
    model = network(data)
    for call in (
        lambda: attack("pgd", model, data.inputs, data.labels, "linf:5%"),
        lambda: certify("interval", model, data.inputs, data.labels, "linf:5%"),
    ):
        with pytest.raises(InputError, match=r"linf:5% is in units of the data's columns.*resolved\(data\)"):
            call()
    pictures = LabelledSet(torch.rand(3, 1, 4, 4), [0, 1, 0])
    with pytest.raises(InputError, match="belong to tables"):
        Threat.parse("linf:5%").resolved(pictures)
    for text in ("l2:5%", "linf:5%,rotation:3", "linf:5*", "linf:-5%", "linf:nan%"):
        with pytest.raises(InputError):
            Threat.parse(text)
    with pytest.raises(InputError, match="largest size that makes a difference is 100%"):
        attack("pgd", model, data.inputs, data.labels, Threat.parse("linf:120%").resolved(data))
    with pytest.raises(InputError, match="was resolved for a table of 5 columns"):
        Threat.parse("linf:5%").resolved(data).perturbations.check(Box(0, 1), (4,))


SERVES = [row.name for row in ATTACKS if row.per_column]


def kept(data, adversarial, epsilon, age=5.0):
    """The rules, by formulas of the test's own."""
    change = (adversarial.double() - data.inputs.double()).abs()
    span = torch.tensor(HIGH).double() - torch.tensor(LOW).double()
    assert bool((change[:, 1] <= epsilon * span[1] * (1 + 2e-6)).all())
    assert bool((change[:, 0] <= age).all())
    assert torch.equal(adversarial[:, 0], adversarial[:, 0].round()), "an age is a whole number"
    assert torch.equal(adversarial[:, 2:], data.inputs[:, 2:]), "sex and colour stay"
    inside = (adversarial >= torch.tensor(LOW)) & (adversarial <= torch.tensor(HIGH))
    assert bool(inside.all())


@pytest.mark.parametrize("name", SERVES)
def test_every_attack_respects_every_column_and_finds_what_there_is(name):
    data = table()
    model = network(data)
    threat = Threat.parse("linf:5%").resolved(data, RULES)
    params = {} if name == "fgsm" else {"steps": 300 if name == "square" else 20}
    found = attack(name, model, data.inputs, data.labels, threat, generator=torch.Generator().manual_seed(1), **params)
    kept(data, found.adversarial, 0.05)
    correct = model(data.inputs).argmax(1) == data.labels
    best = exact(model, data, 0.05)
    assert int((found.success & ~best & correct).sum()) == 0, "a success that does not exist"
    assert int((found.success & correct).sum()) >= 0.6 * int((best & correct).sum()) > 3


def exact(model, data, epsilon):
    """Who can be broken at all: every whole age, and incomes on a fine grid, sex and colour as they are."""
    broken = torch.zeros(len(data), dtype=torch.bool)
    for age, share in itertools.product(range(-5, 6), torch.linspace(-1, 1, 41).tolist()):
        moved = data.inputs.clone()
        moved[:, 0] = (moved[:, 0] + age).clamp(18, 90)
        moved[:, 1] = (moved[:, 1] + share * epsilon * 1e5).clamp(0, 1e5)
        broken |= model(moved).argmax(1) != data.labels
    return broken


@pytest.mark.parametrize("name", ["interval", "crown", "lipschitz", "branch-and-bound"])
def test_proofs_hold_against_brute_force_and_are_not_empty(name):
    data = table()
    model = network(data)
    threat = Threat.parse("linf:2%").resolved(data, {**RULES, "age": {"radius": 2, "integer": True}})
    proven = certify(name, model, data.inputs, data.labels, threat)
    broken = torch.zeros(len(data), dtype=torch.bool)
    for age, share in itertools.product(range(-2, 3), torch.linspace(-1, 1, 21).tolist()):
        moved = data.inputs.clone()
        moved[:, 0] = (moved[:, 0] + age).clamp(18, 90)
        moved[:, 1] = (moved[:, 1] + share * 2000).clamp(0, 1e5)
        broken |= model(moved).argmax(1) != data.labels
    assert not bool((proven.certified & broken).any())
    if name != "lipschitz":
        assert int(proven.certified.sum()) > 0.5 * len(data)
    if name == "branch-and-bound":
        assert proven.falsified is not None
        witness = proven.witness[proven.falsified]
        assert torch.equal(witness[:, 0], witness[:, 0].round())
        assert torch.equal(witness[:, 2:], data.inputs[proven.falsified][:, 2:])
        assert not bool((proven.certified & proven.falsified).any())


def test_the_limit_of_a_linear_model_is_met_on_both_sides():
    """Margin 0.5 − |age change| ÷ 10 − |income change| ÷ 20,000: broken beyond, proven below."""
    weight = torch.tensor([[0.0] * 5, [0.1, 1e-4 / 2, 9.0, 9.0, 9.0]])
    model = wrap(nn.Linear(5, 2), box=Box(torch.tensor(LOW).numpy(), torch.tensor(HIGH).numpy()))
    model.module.weight.data, model.module.bias.data = weight, torch.tensor([0.0, -0.1 * 50 - 2.5 - 18 - 0.5])
    inputs = torch.tensor([[50.0, 50000.0, 1.0, 1.0, 0.0]])
    data = LabelledSet(inputs.repeat(3, 1), [0, 0, 0], box=model.box, columns=NAMES)
    assert float(model(inputs).detach()[0, 1]) == pytest.approx(-0.5, abs=1e-4)
    rules = {name: {"immutable": True} for name in NAMES[2:]}
    for age, income, reached in ((2.0, 5000.0, False), (3.0, 5000.0, True), (5.01, 0.0, True), (4.99, 0.0, False)):
        said = {**rules, "age": {"radius": age}, "income": {"radius": income}}
        threat = Threat.parse("linf:columns").resolved(data, said)
        found = attack("pgd", model, data.inputs, data.labels, threat)
        proven = certify("interval", model, data.inputs, data.labels, threat)
        assert bool(found.success.all()) == reached
        assert bool(proven.certified.all()) == (not reached)


def test_other_attacks_training_and_shared_perturbations_are_refused_by_name():
    data = table()
    threat = Threat.parse("linf:5%").resolved(data)
    with pytest.raises(UnsupportedError, match="with radii that differ by column"):
        attack("fab", network(data), data.inputs, data.labels, threat)


@pytest.mark.parametrize("rules", [None, RULES])
def test_points_of_the_set(rules):
    data = table()
    ours = Threat.parse("linf:5%").resolved(data, rules).perturbations.around(data.inputs, data.box)
    random = Random(7, torch.arange(len(data)))
    theta = ours.start(random, 0)
    assert bool(ours.contains(theta).all())
    assert bool((ours.size(ours.origin()) == 0).all())
    far = ours.project(theta + 1e6)
    assert bool(ours.contains(far).all())
    assert float(ours.size(far).max()) == pytest.approx(0.05, rel=1e-6)
    assert not bool(ours.contains(far + 0.02 * torch.tensor(HIGH)).any())
    if rules:
        moved = data.inputs.clone()
        moved[:, 2] = 1 - moved[:, 2]
        assert bool(ours.size(moved).isinf().all())
    half = ours.select(torch.arange(3)).at(torch.float64)
    assert bool(half.contains(theta[:3].double()).all())


def test_a_key_that_is_given_twice_in_json_is_refused(tmp_path):
    path = tmp_path / "columns.json"
    path.write_text('{"a": {"immutable": true}, "a": {"radius": 5}}')
    from trustbound.threat.sets.column_rules import _read

    with pytest.raises(InputError, match="'a' is given twice"):
        _read(path)
