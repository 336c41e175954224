"""The bracket holds the truth: on models whose true robust accuracy is known, example by example."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.audits.known import linear, verdicts

import trustbound as tb
from trustbound.record.binomial import binomial_interval


def agrees(known, record):
    """Each verdict is true, the counts add up, the shares are shares of all examples."""
    bracket = record.brackets[0]
    found = verdicts(record)
    for place, verdict in enumerate(found):
        if verdict == "misclassified":
            assert not known.correct[place]
        elif verdict == "broken":
            assert known.correct[place]
            assert not known.robust[place]
        elif verdict == "certified":
            assert known.robust[place]
        else:
            assert verdict == "unknown"
            assert known.correct[place]
    assert bracket.lower <= known.truth <= bracket.upper
    count = {name: found.count(name) for name in ("misclassified", "broken", "certified", "unknown")}
    n = len(known.data)
    assert (bracket.misclassified, bracket.broken, bracket.certified, bracket.unknown) == tuple(count.values())
    assert bracket.n == n == sum(count.values())
    assert bracket.lower == count["certified"] / n
    assert bracket.upper == (count["certified"] + count["unknown"]) / n
    assert bracket.upper == pytest.approx(1 - bracket.natural_error - bracket.boundary_error)
    assert bracket.lower_interval == binomial_interval(count["certified"], n)
    assert bracket.upper_interval == binomial_interval(count["certified"] + count["unknown"], n)
    assert record.clean_accuracy == float(known.correct.double().mean())
    return bracket


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_on_a_linear_model_the_bracket_is_the_truth(norm):
    # Far from the box's walls, so that the bound over the ball alone is exact too.
    known = linear(norm=norm, low=0.45, high=0.55)
    assert 0.2 < known.truth < 0.8
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", curve_examples=0)
    bracket = agrees(known, record)
    assert bracket.lower == bracket.upper == known.truth
    assert bracket.unknown == bracket.ties == 0
    assert bracket.no_proof == ""
    assert record.exit_code == 0


def test_at_the_walls_of_the_box_linf_stays_exact():
    known = linear(norm="linf", low=0.0, high=1.0, epsilon=0.3, n=50)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", curve_examples=0)
    bracket = agrees(known, record)
    assert bracket.lower == bracket.upper == known.truth


def test_l0_is_decided_where_values_change_one_by_one():
    known = linear(norm="l0", epsilon=1.5, n=30, shape=(12,), low=0.4, high=0.6)  # radii are whole numbers
    record = tb.audit(known.exact.model, known.data, ["l0:1"], budget="quick", curve_examples=30)
    bracket = record.brackets[0]
    found = verdicts(record)
    assert 0 < found.count("broken") <= int((known.correct & ~known.robust).sum())
    assert not any(verdict == "broken" and known.robust[place] for place, verdict in enumerate(found))
    assert bracket.lower == known.truth <= bracket.upper
    (curve,) = record.curves
    radius = known.exact.exact_radius(known.data.inputs, known.data.labels, "l0", inside_box=True)
    assert curve.epsilons == (0.0, 1.0, 2.0)
    assert curve.lower == tuple(int((radius > at).sum()) / 30 for at in curve.epsilons)
    assert all(low <= high for low, high in zip(curve.lower, curve.upper, strict=True))
    assert record.exit_code == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 2},
        {"classes": 12, "shape": (20,)},
        {"shape": (3, 4, 4)},
        {"shape": (1, 5, 5), "classes": 4},
        {"box": (-2.0, 3.0)},
        {
            "box": (np.array([0.0, -1.0, 5.0, 0.0]), np.array([1.0, 4.0, 6.0, 255.0])),
            "shape": (4,),
            "norm": "l2",
        },
        {"n": 1, "wrong": 0},
        {"n": 15, "wrong": 2, "seed": 3},
    ],
    ids=[
        "two classes",
        "twelve classes",
        "colour",
        "grey",
        "wide box",
        "per-feature box",
        "one example",
        "few",
    ],
)
def test_it_holds_for_every_shape_of_question(changes):
    known = linear(**changes)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", curve_examples=4)
    bracket = agrees(known, record)
    assert bracket.lower == bracket.upper or changes.get("norm") == "l2"
    assert (record.uncertainty is None) == (len(known.data) < 20)
    assert record.model.classes == changes.get("classes", 3)
    assert record.data.n == len(known.data)


def test_a_float64_model_is_searched_and_measured_in_float64(tmp_path):
    known = linear(n=30)
    model = tb.wrap(known.exact.model.module.double(), box=(0.0, 1.0))
    record = tb.audit(model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=0)
    bracket = agrees(known, record)
    assert bracket.lower == bracket.upper == known.truth
    assert record.model.dtype == "float64"
    kept = [load_file(path) for path in (tmp_path / "adversarials").glob("linf*")]
    assert {part["adversarial"].dtype for part in kept if "adversarial" in part} == {torch.float64}
    assert record.exit_code == 0


def test_nothing_correct_leaves_nothing_to_attack():
    known = linear(n=20, wrong=20)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick")
    bracket = agrees(known, record)
    assert bracket.misclassified == 20
    assert bracket.lower == bracket.upper == 0.0
    assert not record.gallery


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_epsilon_zero_breaks_nothing_and_proves_what_is_clear(norm):
    known = linear(norm=norm, epsilon=1e-9, n=30)
    record = tb.audit(known.exact.model, known.data, [f"{norm}:0"], budget="quick")
    bracket = record.brackets[0]
    assert bracket.broken == 0
    assert bracket.upper == float(known.correct.double().mean())
    assert bracket.lower == bracket.upper
    assert record.exit_code in (0, 3)  # checks may object to the question; the bracket stands
    assert record.exit_code == 0


def test_without_a_limit_a_model_that_uses_its_inputs_breaks_everywhere():
    known = linear(epsilon=10.0, n=30)
    record = tb.audit(known.exact.model, known.data, ["linf:inf"], budget="quick", curve_examples=8)
    bracket = record.brackets[0]
    radius = known.exact.exact_radius(known.data.inputs, known.data.labels, "linf", inside_box=True)
    breakable = known.correct & radius.isfinite()
    assert bracket.broken == int(breakable.sum())
    assert all(math.isfinite(epsilon) for epsilon in record.curves[0].epsilons)


def test_every_witness_on_the_disk_is_one(tmp_path):
    known = linear(norm="l2", n=40)
    epsilon = float(known.threat.split(":")[1])
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=0)
    seen = set()
    for path in (tmp_path / "adversarials").glob("l2*"):
        part = load_file(path)
        if "adversarial" not in part:
            continue
        clean = known.data.inputs[part["position"]].double()
        change = (part["adversarial"].double() - clean).flatten(1).norm(dim=1)
        assert bool((change <= epsilon + 1e-5).all())
        assert bool(((part["adversarial"] >= 0) & (part["adversarial"] <= 1)).all())
        with torch.no_grad():
            answered = known.exact.model(part["adversarial"]).argmax(1)
        assert bool((answered != known.data.labels[part["position"]]).all())
        seen |= set(part["position"].tolist())
    broken = {place for place, verdict in enumerate(verdicts(record)) if verdict == "broken"}
    assert broken
    assert broken <= seen
    for row in record.examples:
        if row.verdict == "broken":
            assert row.size <= epsilon + 1e-5
            assert row.adversarial_prediction != row.label
            assert row.settled_by


def test_the_curve_holds_the_truth_at_every_epsilon():
    known = linear(norm="linf", n=50, low=0.4, high=0.6)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", curve_examples=50)
    (drawn,) = record.curves
    radius = known.exact.exact_radius(known.data.inputs, known.data.labels, "linf", inside_box=True)
    radius = torch.where(known.correct, radius, -1.0)
    assert drawn.n == 50
    assert drawn.epsilons[0] == 0.0
    assert drawn.epsilons[-1] == pytest.approx(2 * float(known.threat.split(":")[1]))
    assert drawn.lower[0] == drawn.upper[0] == record.clean_accuracy
    for epsilon, lower, upper in zip(drawn.epsilons, drawn.lower, drawn.upper, strict=True):
        slack = 1e-4
        assert lower <= float((radius > epsilon - slack).double().mean()) + 1e-9
        assert upper >= float((radius > epsilon + slack).double().mean()) - 1e-9
        # Not merely valid: on a linear model the proof is tight, and the attack off by a few examples.
        truth = float((radius > epsilon).double().mean())
        assert truth - lower <= 0.02
        assert upper - truth <= 0.2
    assert list(drawn.upper) == sorted(drawn.upper, reverse=True)
    assert list(drawn.lower) == sorted(drawn.lower, reverse=True)


def test_the_curve_draws_its_examples_from_all_classes():
    known = linear(n=120, classes=3, wrong=0)
    order = known.data.labels.argsort(stable=True)
    record = tb.audit(known.exact.model, known.data.take(order), [known.threat], budget="quick", curve_examples=30)
    unbroken = record.curves[0].upper[16]
    # Were the first 30 taken, all of one class, the share would be that class's own.
    sorted_robust = known.robust[order]
    assert sorted_robust[:30].double().mean() != pytest.approx(unbroken, abs=1e-9)


def test_a_threat_is_asked_about_once_and_several_stand_side_by_side():
    known = linear(n=24, low=0.45, high=0.55)
    record = tb.audit(known.exact.model, known.data, [known.threat, "l2:0.01"], budget="quick", curve_examples=0)
    assert [one.threat for one in record.brackets] == [known.threat, "l2:0.01"]
    assert len(record.examples) == 2 * len(known.data)
    assert verdicts(record, known.threat).count("certified") == int(known.robust.sum())
    with pytest.raises(tb.InputError, match="once"):
        tb.audit(known.exact.model, known.data, ["linf:8/255", f"linf:{8 / 255}"], budget="quick")


@pytest.mark.parametrize("epsilon", [0.01, 0.4])
def test_a_target_is_attacked_and_proven_against(epsilon):
    known = linear(n=24)
    threat = f"linf:{epsilon};goal=target:0"
    record = tb.audit(known.exact.model, known.data, [threat], budget="quick", curve_examples=0)
    found = verdicts(record)
    elsewhere = [place for place, label in enumerate(known.data.labels.tolist()) if label != 0]
    assert not any(verdict == "broken" for place, verdict in enumerate(found) if place not in elsewhere)
    assert (record.brackets[0].certified if epsilon == 0.01 else record.brackets[0].broken) > 0


@pytest.mark.parametrize("goal", ["source:1,target:0", "reduce-confidence:0.5"])
def test_other_goals_have_an_upper_bound_and_say_why_there_is_no_lower_one(goal):
    known = linear(n=24)
    record = tb.audit(known.exact.model, known.data, [f"linf:0.4;goal={goal}"], budget="quick", curve_examples=0)
    bracket = record.brackets[0]
    labels = known.data.labels
    concerned = (labels == 1) if goal.startswith("source") else torch.ones_like(labels, dtype=torch.bool)
    correct = torch.tensor([verdict != "misclassified" for verdict in verdicts(record)])
    assert bracket.certified == int((correct & ~concerned).sum())  # nothing is to be reached for the others
    assert "no proof" in bracket.no_proof
    assert bracket.broken > 0
    for place, verdict in enumerate(verdicts(record)):
        if verdict == "broken" and goal.startswith("source"):
            assert labels[place] == 1
