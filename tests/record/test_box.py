"""The box of valid inputs: limits, widths and diameters against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trustbound.errors import InputError
from trustbound.record.box import Box

LOWS = arrays(np.float64, 3, elements=st.floats(-5, 5))
WIDTHS = arrays(np.float64, 3, elements=st.floats(0.01, 5))


@given(LOWS, WIDTHS)
def test_the_diameter_is_the_greatest_distance_between_two_corners(low, width):
    box = Box(low, low + width)
    corners = np.array(list(itertools.product(*zip(low, low + width, strict=True))))
    gaps = (corners[:, None] - corners[None]).reshape(-1, 3)
    brute = {"linf": np.abs(gaps).max(1), "l2": np.sqrt((gaps**2).sum(1)), "l1": np.abs(gaps).sum(1)}
    for norm, distances in brute.items():
        assert box.diameter(norm, 3) == pytest.approx(distances.max(), rel=1e-12)
    assert box.diameter("l0", 3) == (gaps != 0).sum(1).max()


def test_limits_per_channel_count_once_for_each_of_its_pixels():
    box = Box(np.zeros((3, 1, 1)), np.array([1.0, 2.0, 3.0]).reshape(3, 1, 1))
    full = Box(np.zeros((3, 4, 4)), np.broadcast_to(box.high, (3, 4, 4)))
    for norm in ("linf", "l2", "l1", "l0"):
        assert box.diameter(norm, 48) == pytest.approx(full.diameter(norm, 48))
    assert box.diameter("l2", 48) == pytest.approx(np.sqrt(16 * (1 + 4 + 9)))


def test_limits_of_two_shapes_broadcast():
    box = Box(np.zeros((2, 1)), np.array([1.0, 2.0]))
    assert box.diameter("l1", 4) == 6.0
    assert box.width == 2.0


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.0, 0.0),
        (1.0, 0.0),
        (0.0, float("inf")),
        (float("nan"), 1.0),
        (np.array([0.0, 0.0]), np.array([1.0, 0.0])),
        (np.zeros(2), np.ones(3)),
    ],
)
def test_an_empty_or_endless_box_is_refused(low, high):
    with pytest.raises(InputError, match="a box needs"):
        Box(low, high)


@pytest.mark.parametrize("came", [3, (0.0,), (0.0, 1.0, 2.0), ("low", "high"), None])
def test_what_is_no_pair_of_limits_is_refused(came):
    with pytest.raises(InputError, match="pair"):
        Box.of(came)


def test_a_box_is_a_value():
    one, same, other = Box([0, 0], [1, 2]), Box(np.zeros(2), np.array([1.0, 2.0])), Box([0, 0], [1, 3])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert Box.of(one) is one
