"""What every attack keeps that fits one perturbation for all inputs, whatever it does inside."""

import dataclasses
import random as python_random

import numpy as np
import pytest
import torch
from tests.contract.test_attacks import (
    BANNED,
    EPSILON,
    SECTIONS,
    Counter,
    examples,
    seeded,
    size_of,
    task,
    threat_of,
)
from torch import nn

from trustbound.attacks import attack, build
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.shared.fitting import fit_perturbation
from trustbound.attacks.shared.perturbation import SharedPerturbation
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.record.box import Box
from trustbound.threat import Access, Threat

ROWS = [pytest.param(row, id=row.name) for row in ATTACKS if row.shared]
PAIRS = [pytest.param(row, norm, id=f"{row.name}-{norm}") for row in ATTACKS if row.shared for norm in row.norms]


def few(row):
    """As few passes as will do."""
    names = {field.name for field in dataclasses.fields(ATTACKS.load(row.name))}
    return {"passes": 3} if "passes" in names else {}


@pytest.mark.parametrize(("row", "norm"), PAIRS)
def test_it_is_inside_the_set_and_the_box_and_every_success_is_true(row, norm):
    net, inputs, labels = task(24)
    inputs[:6] *= 0.1  # near the limits, where clipping takes some of it
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    labels[3] = (labels[3] + 1) % 4  # wrong from the start
    before = inputs.clone()
    found = attack(row.name, net, inputs, labels, threat_of(row, norm), generator=seeded(), **few(row))
    assert torch.equal(inputs, before)
    slack = {"linf": 1e-6, "l2": 6e-6}[norm]
    assert size_of(found.perturbation[None], norm)[0] <= EPSILON[norm] + slack
    size = size_of(found.adversarial.double() - inputs.double(), norm)
    assert (size <= EPSILON[norm] + slack).all()
    assert 0.0 <= found.adversarial.min() <= found.adversarial.max() <= 1.0
    with torch.no_grad():
        wrong = net(found.adversarial).argmax(1) != labels
    assert torch.equal(found.success, wrong)
    assert found.success[~found.fitted].any()
    # What changed is the one perturbation, where the box lets it; wrong from the start stays as it is.
    moved = torch.arange(24) != 3
    expected = (inputs + found.perturbation).clamp(0.0, 1.0)
    assert torch.equal(found.adversarial[moved], expected[moved])
    assert torch.equal(found.adversarial[3], inputs[3])
    assert int(found.fitted.sum()) == 12


@pytest.mark.parametrize(("row", "norm"), PAIRS)
def test_held_out_examples_are_never_used_for_fitting(row, norm):
    """Other held-out inputs, labels and their order: the perturbation is the same to the last bit."""
    net, inputs, labels = task(20)

    def fitted(inputs, labels):
        return attack(row.name, net, inputs, labels, threat_of(row, norm), generator=seeded(), **few(row))

    first = fitted(inputs, labels)
    held = (~first.fitted).nonzero()[:, 0]
    other, said = inputs.clone(), labels.clone()
    other[held] = examples(20, seed=9)[held]
    said[held] = (said[held] + 1) % 4
    for changed in ((other, labels), (inputs, said), (other.index_copy(0, held, inputs[held.flip(0)]), labels)):
        again = fitted(*changed)
        assert torch.equal(again.fitted, first.fitted)
        assert torch.equal(again.perturbation, first.perturbation)
    # The test can fail: what it was fitted to does move it.
    ours = first.fitted.nonzero()[:, 0]
    moved = fitted(inputs.index_copy(0, ours, examples(20, seed=9)[ours]), labels)
    assert not torch.equal(moved.perturbation, first.perturbation)
    alone = fit_perturbation(
        row.name, net, inputs[ours], labels[ours], threat_of(row, norm), generator=seeded(), ids=ours, **few(row)
    )
    assert torch.equal(alone.perturbation, first.perturbation)


@pytest.mark.parametrize(("row", "norm"), PAIRS)
def test_the_same_generator_gives_the_same_bits_and_leaves_the_world_as_it_was(row, norm):
    net, inputs, labels = task(16)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    flags = [weight.requires_grad for weight in net.parameters()]
    torch.manual_seed(3)
    worlds = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()

    def fitted(seed):
        return fit_perturbation(
            row.name, net, inputs, labels, threat_of(row, norm), generator=seeded(seed), **few(row)
        ).perturbation

    assert torch.equal(fitted(5), fitted(5))
    assert torch.equal(torch.get_rng_state(), worlds[0])
    assert np.array_equal(np.random.get_state()[1], worlds[1])
    assert python_random.getstate() == worlds[2]
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert [weight.requires_grad for weight in net.parameters()] == flags
    assert all(weight.grad is None for weight in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not net.training


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("detector", [False, True])
@pytest.mark.parametrize("row", ROWS)
def test_reported_cost_is_counted_cost_and_never_above_the_budget(row, draws, detector):
    net, inputs, labels = task(10)
    threat, price = threat_of(row, "linf"), draws + detector

    def counted(budget):
        counter, asked = Counter(net), [0]

        def rejects(points):
            asked[0] += len(points)
            return points.flatten(1).mean(dim=1) > 0.5

        model = wrap(counter, adaptation=Adaptation(draws=draws, detector=rejects if detector else None))
        found = attack(
            row.name, model, inputs, labels, threat, generator=seeded(), batch_size=4, budget=budget, **few(row)
        )
        assert found.cost.forwards == int(found.forwards.sum()) == counter.forwards + asked[0]
        assert found.cost.backwards == int(found.backwards.sum()) == counter.backwards
        assert found.cost.queries == int(found.queries.sum()) == 0
        assert budget is None or int(found.forwards.max()) <= budget
        return found

    whole = counted(None)
    assert int(whole.forwards[whole.fitted].min()) > int(whole.forwards[~whole.fitted].max())
    for looks in (5, 6, 9, 17, 40):
        counted(looks * price)
    with pytest.raises(InputError, match=f"at least {5 * price} forwards"):
        counted(5 * price - 1)


@pytest.mark.parametrize(("row", "norm"), PAIRS)
def test_on_a_linear_model_it_finds_the_direction_of_the_closed_form(row, norm):
    """Two classes, all examples of one, none of which can be moved: along w in l2, along sign(w) in linf."""
    torch.manual_seed(1)
    linear = nn.Linear(20, 2)
    normal = (linear.weight[1] - linear.weight[0]).detach()
    inputs = torch.rand(30, 20) * 0.2 + 0.4
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([float((inputs @ normal).max()) + 0.3, 0.0]))
    threat = {"linf": "linf:0.05", "l2": "l2:0.3"}[norm]
    shared = fit_perturbation(row.name, linear, inputs, torch.zeros(30, dtype=torch.int64), threat)
    wanted = normal if norm == "l2" else normal.sign()
    assert float(torch.cosine_similarity(shared.perturbation, wanted, dim=0)) >= 0.99
    assert shared.fooled == 0.0
    # With room enough it moves nearly all, of new examples too.
    threat = {"linf": "linf:0.4", "l2": "l2:1.5"}[norm]
    shared = fit_perturbation(row.name, linear, inputs, torch.zeros(30, dtype=torch.int64), threat)
    new = torch.rand(200, 20) * 0.2 + 0.4
    found = attack(shared, linear, new, torch.zeros(200, dtype=torch.int64), threat)
    assert shared.fooled >= 0.8
    assert float(found.success.double().mean()) >= 0.7


@pytest.mark.parametrize("row", ROWS)
def test_one_that_was_fitted_is_an_attack_on_new_examples(row):
    net, inputs, labels = task(24)
    threat = threat_of(row, "linf")
    shared = fit_perturbation(row.name, net, inputs[:12], labels[:12], threat, **few(row))
    counter = Counter(net)
    found = attack(shared, counter, inputs[12:], labels[12:], threat)
    assert torch.equal(found.adversarial, shared.apply(inputs[12:]))
    assert (found.forwards == 3).all()
    assert counter.forwards == 36
    assert counter.backwards == 0
    # It needs no more than decisions: it asks nothing to choose by.
    blind = attack(shared, net, inputs[12:], labels[12:], f"{threat};access=decisions")
    assert torch.equal(blind.success, found.success)
    for inputs_, asked in ((inputs, "linf:0.05"), (inputs[..., :5], threat)):
        before = counter.forwards
        with pytest.raises(InputError, match="a shared perturbation"):
            attack(shared, counter, inputs_, labels, asked)
        assert counter.forwards == before


@pytest.mark.parametrize("row", ROWS)
def test_what_cannot_be_served_is_refused_before_the_first_call(row):
    net, inputs, labels = task(4)
    counter = Counter(net)
    good = threat_of(row, row.norms[0])

    def refused(error, threat=good, **more):
        for call in (attack, fit_perturbation):
            with pytest.raises(error):
                call(row.name, counter, inputs, labels, threat, **more)

    for norm in set(EPSILON) - set(row.norms):
        refused(UnsupportedError, threat_of(row, norm))
    for level in Access:
        if level < Access[row.needs.upper()]:
            refused(UnsupportedError, f"{good};access={level.name.lower()}")
    for goal in {"target:2", "reduce-confidence:0.2"} if row.goals else ():
        refused(UnsupportedError, f"{good};goal={goal}")
    refused(InputError, n_iter=3)
    refused(InputError, budget=4)
    refused(InputError, passes=0)
    refused(InputError, passes=1.5)
    with pytest.raises(InputError, match="at least 2; got 1"):
        attack(row.name, counter, inputs[:1], labels[:1], good)
    with pytest.raises(InputError, match="pgd changes each example by itself"):
        fit_perturbation("pgd", counter, inputs, labels, good)
    assert counter.forwards == 0


def test_nothing_to_fit_to_is_no_failure():
    """All wrong from the start: nothing is changed, and every example counts as it stands."""
    net, inputs, labels = task(8)
    found = attack("uap", net, inputs, (labels + 1) % 4, "linf:0.1")
    assert found.success.all()
    assert torch.equal(found.adversarial, inputs)
    assert not found.perturbation.any()


@pytest.mark.parametrize("row", ROWS)
def test_rows_docstrings_and_names_agree(row):
    chosen = ATTACKS.load(row.name)
    assert (chosen.needs, chosen.seeks, chosen.shared) == (Access[row.needs.upper()], row.seeks, row.shared)
    assert build(row.name) == chosen()
    assert all(field.kw_only for field in dataclasses.fields(chosen))
    assert not BANNED & {field.name for field in dataclasses.fields(chosen)}
    lines = chosen.__doc__.splitlines()
    for section in SECTIONS:
        assert any(line.strip().startswith(f"{section} ") for line in lines), section
    assert ">>> " in chosen.__doc__
    said = next(line for line in lines if "Sets:" in line)
    assert tuple(said.split("Sets: ")[1].split(".")[0].split(", ")) == row.norms
    assert tuple(said.split("Goals: ")[1].strip(".").split(", ")) == row.goals if row.goals else "Goals" not in said
    looks, backwards = build(row.name).dearest
    assert looks >= backwards >= 1


def test_a_perturbation_outside_of_its_set_or_box_is_refused():
    module = torch.nn.Linear(6, 3)
    inputs, labels = torch.rand(8, 6) / 2, torch.zeros(8, dtype=torch.int64)
    threat = Threat.parse("linf:0.1")
    for size, box, said in ((0.5, Box(0.0, 1.0), "must lie in its set"), (0.1, Box(0.0, 0.5), "inside the box")):
        shared = SharedPerturbation(method="by-hand", perturbation=torch.full((6,), size), threat=threat, box=box)
        with pytest.raises(InputError, match=said):
            attack(shared, wrap(module, box=(0.0, 1.0)), inputs, labels, threat)
    with pytest.raises(InputError, match="one that is fitted"):
        fit_perturbation(shared, wrap(module, box=(0.0, 0.5)), inputs, labels, threat)
    for params in ({"overshoot": None}, {"fooling_rate": "a"}):
        with pytest.raises(InputError, match=r"got (None|'a')"):
            fit_perturbation("uap", module, inputs, labels, threat, **params)
