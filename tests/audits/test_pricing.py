"""The price of a backward does not hang on a busy moment. Time here is a clock that the model itself moves."""

import pytest
import torch
from torch import nn

from trustbound.audits.planning.pricing import LEAST, PAIRS, price
from trustbound.model.wrapping import wrap


class Work:
    """A clock that stands still but for what is worked: `forward` and `backward` seconds, some of them slowed."""

    def __init__(self, forward=1.0, backward=1.5, slow=(), first=1.0):
        self.now, self.calls = 0.0, 0
        self.forward, self.backward, self.slow, self.first = forward, backward, dict(slow), first

    def __call__(self):
        return self.now

    def spend(self, seconds):
        factor = self.slow.get(self.calls, 1.0) * (self.first if self.calls < 2 else 1.0)
        self.now += seconds * factor


class Timed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs, work):
        ctx.work = work
        work.calls += 1
        work.spend(work.forward)
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.work.spend(ctx.work.backward)
        return gradient, None


class Net(nn.Module):
    def __init__(self, work):
        super().__init__()
        self.layer, self.work, self.sizes = nn.Linear(4, 3), work, []

    def forward(self, inputs):
        self.sizes.append(len(inputs))
        return self.layer(Timed.apply(inputs, self.work))


def measured(work, *, batch_size=None, limit=1e9, rows=8):
    net = Net(work)
    found = price(
        wrap(net),
        torch.rand(rows, 4),
        torch.zeros(rows, dtype=torch.int64),
        batch_size=batch_size,
        clock=work,
        limit=limit,
    )
    return found, net


@pytest.mark.parametrize("backward", [0.0, 0.7, 1.5, 4.0])
def test_on_a_quiet_machine_it_is_exact(backward):
    found, _ = measured(Work(backward=backward))
    assert found.backward == pytest.approx(backward)
    assert found.forward == pytest.approx(1.0 / 8)


@pytest.mark.parametrize("factor", [0.05, 30.0, 1000.0])
def test_slow_moments_that_hit_forwards_or_backwards_alone_move_nothing(factor):
    # Calls 3, 5, 8 … are single forwards or single gradients: eleven of fifty are disturbed, first ones among them.
    slow = dict.fromkeys((3, 4, 7, 11, 14, 19, 22, 30, 37, 41, 49), factor)
    found, _ = measured(Work(slow=slow, first=100.0))
    assert found.backward == pytest.approx(1.5)
    assert found.forward == pytest.approx(1.0 / 8)


def test_a_slow_spell_that_meets_whole_pairs_moves_nothing():
    found, _ = measured(Work(slow=dict.fromkeys(range(3, 40), 20.0)))
    assert found.backward == pytest.approx(1.5)


def test_it_uses_the_batch_size_of_the_search_and_no_more_time_than_allowed():
    found, net = measured(Work(), batch_size=5, limit=12.0)
    assert set(net.sizes) == {5}
    assert found.backward == pytest.approx(1.5)
    made = len(net.sizes) // 2 - 1  # pairs, without the warm-up
    assert LEAST <= made <= 12.0 / 3.5 + 1
    assert len(measured(Work(), limit=0.0)[1].sizes) == 2 * (LEAST + 1)
    assert len(measured(Work())[1].sizes) == 2 * (PAIRS + 1)


def test_a_model_without_gradients_has_no_backward_to_price():
    class Cut(nn.Module):
        def forward(self, inputs):
            return inputs.detach()

    found = price(wrap(Cut()), torch.rand(8, 4), torch.zeros(8, dtype=torch.int64))
    assert found.backward == 0.0
    assert found.forward > 0.0
