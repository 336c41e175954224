"""Counter-based randomness: independent of neighbours, and random."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from trustbound.errors import InputError
from trustbound.threat import Random, new_key

DRAWS = ["uniform", "normal", "integers"]


def draw(random, name, shape, restart, number, dtype=torch.float64):
    if name == "integers":
        return random.integers(5, shape, restart=restart, draw=number)
    return getattr(random, name)(shape, restart=restart, draw=number, dtype=dtype)


@pytest.mark.parametrize("name", DRAWS)
def test_every_batch_gives_the_same_bits(name):
    ids = torch.arange(1000) * 7 + 3
    whole = draw(Random(99, ids), name, (3, 5), 2, 4)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    for size in (1, 7, 64):
        for first in range(0, 200, size):
            rows = order[first : first + size]
            assert torch.equal(draw(Random(99, ids[rows]), name, (3, 5), 2, 4), whole[rows])
            assert torch.equal(draw(Random(99, ids).select(rows), name, (3, 5), 2, 4), whole[rows])
    # A longer draw begins with the shorter one's numbers only where it must: shapes are data, not a stream.
    assert torch.equal(draw(Random(99, ids), name, (15,), 2, 4).reshape(1000, 3, 5), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_uniform_numbers_are_uniform(dtype):
    values = Random(1, torch.arange(400)).uniform((250,), restart=0, draw=0, dtype=dtype)
    assert values.dtype == dtype
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values.double().flatten().numpy(), "uniform").pvalue > 1e-3
    # Column by column and row by row as well: the counter and the identity both scramble.
    assert stats.kstest(values[:, 17].double().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(values[17].double().numpy(), "uniform").pvalue > 1e-3
    counts = np.histogram(values.flatten().numpy(), bins=256, range=(0, 1))[0]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_low_bits_are_random_too():
    values = Random(3, torch.arange(500)).uniform((200,), restart=1, draw=1, dtype=torch.float64)
    low = (values * 2**53).to(torch.int64) & 0xFF
    assert stats.chisquare(np.bincount(low.flatten().numpy(), minlength=256)).pvalue > 1e-3


def test_normal_numbers_have_normal_moments():
    values = Random(2, torch.arange(400)).normal((250,), restart=0, draw=0, dtype=torch.float64).flatten().numpy()
    assert np.isfinite(values).all()
    assert stats.kstest(values, "norm").pvalue > 1e-3
    count = len(values)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / count)
        assert abs((values**power).mean() - moment) < 5 * spread


def test_integers_are_uniform_and_in_range():
    values = Random(4, torch.arange(300)).integers(7, (200,), restart=0, draw=3)
    assert values.dtype == torch.int64
    assert set(values.unique().tolist()) == set(range(7))
    assert stats.chisquare(np.bincount(values.flatten().numpy())).pvalue > 1e-3


def test_streams_keys_restarts_draws_and_examples_are_independent():
    ids = torch.arange(200)
    base = Random(11, ids).uniform((200,), restart=0, draw=0, dtype=torch.float64)
    others = {
        "key": Random(12, ids).uniform((200,), restart=0, draw=0, dtype=torch.float64),
        "example": Random(11, ids + 200).uniform((200,), restart=0, draw=0, dtype=torch.float64),
        "restart": Random(11, ids).uniform((200,), restart=1, draw=0, dtype=torch.float64),
        "draw": Random(11, ids).uniform((200,), restart=0, draw=1, dtype=torch.float64),
        "stream": Random(11, ids).stream("other").uniform((200,), restart=0, draw=0, dtype=torch.float64),
        "swapped": Random(11, ids).uniform((200,), restart=1, draw=1, dtype=torch.float64),
    }
    for name, other in others.items():
        together = np.corrcoef(base.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(together) < 5 / math.sqrt(base.numel()), name
        assert not (base == other).any(), name
    # Lags within a row and between neighbouring rows.
    for first, second in ((base[:, :-1], base[:, 1:]), (base[:-1], base[1:])):
        together = np.corrcoef(first.flatten().numpy(), second.flatten().numpy())[0, 1]
        assert abs(together) < 5 / math.sqrt(first.numel())
    one, two = (Random(11, ids).uniform((5,), restart=r, draw=d) for r, d in ((0, 1), (1, 0)))
    assert not torch.equal(one, two)


def test_streams_are_told_apart_by_name_and_repeat():
    random = Random(5, torch.tensor([1, 2]))
    assert random.stream("a").key == random.stream("a").key != random.stream("b").key
    assert 0 <= random.stream("a").key < 2**63


def test_the_key_comes_from_the_generator_alone():
    generator = torch.Generator().manual_seed(1)
    before = torch.get_rng_state()
    first, second = new_key(generator), new_key(generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert first != second
    assert first == new_key(torch.Generator().manual_seed(1))
    assert new_key(None) == 0
    assert 0 <= first < 2**63


def test_a_seed_stands_for_a_generator_of_its_own():
    keys = [new_key(None, seed) for seed in (0, 1, 2**32 - 1)]
    assert len(set(keys)) == 3
    assert keys[1] == new_key(torch.Generator().manual_seed(1))
    with pytest.raises(InputError, match="Leave one out"):
        new_key(torch.Generator(), 1)
    for wrong in (-1, 1.0, True, "1", 2**32):
        with pytest.raises(InputError, match="`seed` must be a whole number"):
            new_key(None, wrong)
