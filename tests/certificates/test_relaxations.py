"""Relaxations lie on the right side of what they replace; limits that know nothing prove nothing."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from trustbound.certificates.graph.operations import Activation, MaxPool
from trustbound.certificates.methods.interval import Bounds
from trustbound.certificates.methods.relaxations import relax_activation, relax_max_pool

number = st.floats(-1e6, 1e6, allow_nan=False)


@given(low=number, high=number, slope=st.floats(0.0, 1.0), share=st.floats(0.0, 1.0))
def test_lines_enclose_the_activation_between_its_limits(low, high, slope, share):
    low, high = sorted((low, high))
    ends = [torch.tensor([[end]], dtype=torch.float64) for end in (low, high)]
    found = relax_activation(Activation(sources=(0,), shape=(1,), slope=slope), Bounds(low=ends[0], high=ends[1]))
    for point in (low, high, low + share * (high - low), min(max(0.0, low), high)):
        value = point if point > 0 else slope * point
        grain = 1e-15 * max(abs(low), abs(high))
        assert float(found.below) * point <= value + grain
        assert float(found.above) * point + float(found.shift) >= value - (grain if low >= 0 or high <= 0 else 0)


@pytest.mark.parametrize("ends", [(math.nan, 1.0), (-1.0, math.nan), (-math.inf, math.inf)])
def test_limits_that_overflowed_leave_no_finite_line(ends):
    reach = Bounds(low=torch.tensor([[ends[0]]]), high=torch.tensor([[ends[1]]]))
    found = relax_activation(Activation(sources=(0,), shape=(1,)), reach)
    assert not (found.above + found.shift).isfinite().all()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    list(itertools.product((2, 3), (1, 2), (0, 1), (1, 2), (False, True))),
)
def test_picks_are_the_winners_by_brute_force(kernel, stride, padding, dilation, ceil):
    chance = torch.Generator().manual_seed(0)
    low = torch.randn(2, 3, 7, 6, generator=chance, dtype=torch.float64)
    high = low + 0.5 * torch.rand(low.shape, generator=chance, dtype=torch.float64)
    pooled = F.max_pool2d(low, kernel, stride, padding, dilation, ceil)
    pair = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": (padding,) * 2, "dilation": (dilation,) * 2}
    step = MaxPool(sources=(0,), shape=tuple(pooled.shape[1:]), ceil=ceil, **pair)
    found = relax_max_pool(step, Bounds(low=low, high=high))
    sures = 0
    for b, c, y, x in itertools.product(*map(range, pooled.shape)):
        cells = [
            (i, j)
            for i in range(y * stride - padding, y * stride - padding + dilation * kernel, dilation)
            for j in range(x * stride - padding, x * stride - padding + dilation * kernel, dilation)
            if 0 <= i < 7 and 0 <= j < 6
        ]
        best = max(cells, key=lambda cell: float(low[b, c, cell[0], cell[1]]))
        assert int(found.winner[b, c, y, x]) == best[0] * 6 + best[1]
        others = [float(high[b, c, i, j]) for i, j in cells if (i, j) != best]
        sure = max(others, default=-math.inf) <= float(low[b, c, best[0], best[1]])
        assert bool(found.sure[b, c, y, x]) == sure
        assert float(found.top[b, c, y, x]) == max(float(high[b, c, i, j]) for i, j in cells)
        sures += sure
    assert 0 < sures < pooled.numel()
