"""Threats as text: what is written reads back the same, what is wrong is refused with advice."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trustbound.errors import InputError
from trustbound.record.box import Box
from trustbound.threat import (
    Access,
    Misclassify,
    NormBall,
    ReduceConfidence,
    SourceTarget,
    Target,
    Threat,
)

CLASSES = st.integers(0, 999_999_999)
GOALS = st.one_of(
    st.just(Misclassify()),
    st.builds(Target, CLASSES),
    st.builds(SourceTarget, CLASSES, CLASSES),
    st.builds(ReduceConfidence, st.floats(0, 1, exclude_min=True)),
    st.sampled_from(
        [ReduceConfidence(0.1234567), ReduceConfidence(1 / 3), ReduceConfidence(1), ReduceConfidence(5e-324)]
    ),
)


@given(
    norm=st.sampled_from(["linf", "l2", "l1", "l0"]),
    epsilon=st.one_of(
        st.floats(0, 1e6, allow_nan=False),
        st.integers(0, 254).map(lambda k: k / 255),
        st.just(math.inf),
        st.sampled_from([1e-7, 5e-324, 1e22, 0.1 + 0.2, 1.7976931348623157e308, -0.0]),
        st.floats(0, 1, width=32).map(np.float32),
        st.floats(0, 1).map(np.float64),
    ),
    goal=GOALS,
    access=st.sampled_from(list(Access)),
)
@settings(max_examples=500, deadline=None)
def test_round_trip(norm, epsilon, goal, access):
    epsilon = float(int(epsilon)) if norm == "l0" and math.isfinite(epsilon) else epsilon
    threat = Threat(NormBall(norm, epsilon), goal, access)
    again = Threat.parse(str(threat))
    assert again == threat
    assert str(again) == str(threat)
    assert again.perturbations.epsilon == epsilon
    assert str(threat).isascii()


@pytest.mark.parametrize(
    ("text", "epsilon", "shown"),
    [
        ("linf:8/255", 8 / 255, "linf:8/255"),
        ("linf:0.3", 0.3, "linf:0.3"),
        ("l2:.5", 0.5, "l2:0.5"),
        ("l2:inf", math.inf, "l2:inf"),
        ("l0:20", 20.0, "l0:20"),
        ("l1:1e1", 10.0, "l1:10"),
        (" linf:1/7 ; access=scores ", 1 / 7, f"linf:{1 / 7!r};access=scores"),
        ("linf:0", 0.0, "linf:0"),
        ("linf:51/255", 0.2, "linf:0.2"),
        ("l2:0.4", 0.4, "l2:0.4"),
        ("l2:5.", 5.0, "l2:5"),
        ("l2:0/7", 0.0, "l2:0"),
        ("l2:1E-3", 1e-3, "l2:0.001"),
        ("l0:4/2;access=SCORES", 2.0, "l0:2;access=scores"),
        ("linf:1;goal=reduce-confidence:0.1234567", 1.0, "linf:1;goal=reduce-confidence:0.1234567"),
        ("linf:1;goal=misclassify;access=gradients", 1.0, "linf:1"),
        ("linf:1;goal=target:007", 1.0, "linf:1;goal=target:7"),
    ],
)
def test_known_forms(text, epsilon, shown):
    threat = Threat.parse(text)
    assert threat.perturbations.epsilon == epsilon
    assert str(threat) == shown
    assert Threat.parse(threat) is threat


def test_goals_that_differ_do_not_print_alike():
    """An audit keeps its answers by the threats' texts."""
    near = [ReduceConfidence(0.1234567), ReduceConfidence(0.1234568), ReduceConfidence(np.float64(0.1234569))]
    assert len({str(goal) for goal in near}) == 3


def test_parts_are_read():
    threat = Threat.parse("l0:20;goal=source:3,target:5;access=decisions")
    assert threat.goal == SourceTarget(3, 5)
    assert threat.access is Access.DECISIONS
    assert Access.DECISIONS < Access.SCORES < Access.GRADIENTS


@pytest.mark.parametrize(
    "text",
    [
        "linf",
        "linf:",
        "l3:1",
        "linf:-1",
        "linf:nan",
        "linf:8/0",
        "linf:8/0.0",
        "linf:1/2/3",
        "linf:eight",
        "",
        "rotation:30,l2:1",
        "rotation:inf",
        "rotation:30,rotation:10",
        "shear:3",
        "l0:2.5",
        "linf:0.1;goal=win",
        "linf:0.1;access=root",
        "linf:0.1;speed=3",
        "linf:0.1;goal=target:x",
        "linf:0.1;goal=reduce-confidence:2",
        "linf:0.1;goal=source:1",
        # Sizes that float64 cannot hold are other sizes.
        "l2:1e400",
        "l2:1e308/1e-10",
        "l2:1/1e400",
        "l2:1e-400",
        "l2:1e-300/1e300",
        "l2:8/1e-400",
        "l2:1e400/1e400",
        # A part given twice, or an empty one.
        "linf:0.1;goal=target:1;goal=target:2",
        "linf:0.1;goal=misclassify;goal=misclassify",
        "linf:0.1;access=scores;access=gradients",
        "linf:0.1;",
        "linf:0.1;;access=scores",
        ";linf:0.1",
        "linf:0.1;goal=",
        "linf:0.1;access",
        "linf:0.1;goal=target:1=2",
        # Numbers that Python reads and people do not write.
        "linf:1_000",
        "linf:0x10",
        "linf:+1",
        "linf:-0",
        "linf:1 /2",
        "linf: 0.1",
        "linf:1e",
        "linf:.",
        "linf:٣",
        "linf:１",
        "linf:∞",
        "linf:INF",
        "linf:infinity",
        "linf:True",
        "LINF:0.1",
        "linf:0.1;goal=target:٣",
        "linf:0.1;goal=target:1_0",
        "linf:0.1;goal=target: 3",
        "linf:0.1;goal=target:+3",
        "linf:0.1;goal=target:-1",
        "linf:0.1;goal=target:1e1",
        "linf:0.1;goal=source:1,2",
        "linf:0.1;goal=source:1,target:2,target:3",
        "linf:0.1;goal=reduce-confidence:nan",
        "linf:0.1;goal=reduce-confidence:0",
        "linf:0.1;goal=reduce-confidence:1e-400",
        "linf:0.1;goal=reduce-confidence:٠.٥",
        "linf:0.1;goal=reduce-confidence:0_1",
        "linf:0.1;goal=reduce-confidence:inf",
        "linf:0.1;access=ſcores",
    ],
)
def test_wrong_text_is_refused_with_what_came(text):
    with pytest.raises(InputError, match=r"got|must"):
        Threat.parse(text)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("epsilon", [-1.0, -1e-9, math.nan])
def test_no_ball_of_such_a_size(norm, epsilon):
    with pytest.raises(InputError, match="epsilon"):
        NormBall(norm, epsilon)


def test_larger_than_the_box_is_refused_and_inf_is_not():
    box = Box(0.0, 1.0)
    for norm, diameter in {"linf": 1.0, "l2": 4.0, "l1": 16.0, "l0": 16.0}.items():
        NormBall(norm, diameter).check(box, (16,))
        NormBall(norm, math.inf).check(box, (16,))
        with pytest.raises(InputError, match=f"{norm}:inf"):
            NormBall(norm, 17.0 if norm == "l0" else diameter * 1.01).check(box, (16,))


def test_goals_say_what_success_is():
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0], [2.0, 2.0, 0.0], [math.nan, 1.0, 0.0]])
    labels = torch.tensor([0, 0, 0, 0])
    reached = {
        Misclassify(): [False, True, False, True],  # a tie is no success; NaN is no right answer
        Target(1): [False, True, False, False],
        Target(2): [False, False, False, False],
        SourceTarget(0, 1): [False, True, False, False],
        SourceTarget(2, 1): [False, False, False, False],  # not concerned
        ReduceConfidence(0.5): [False, True, True, True],
    }
    for goal, expected in reached.items():
        objective = goal.bind(labels, 3)
        assert objective.reached(logits).tolist() == expected, goal
        rows = torch.tensor([1, 2])
        assert objective.select(rows).reached(logits[rows]).tolist() == [expected[1], expected[2]]


def test_goals_refuse_classes_that_are_not_there():
    for goal in (Target(3), Target(-1), SourceTarget(0, 3), SourceTarget(1, 1)):
        with pytest.raises(InputError, match="class"):
            goal.bind(torch.tensor([0]), 3)
