"""What the certificate fuzz found, each cause in a network of a few lines."""

import pytest
import torch
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import UnsupportedError

DETERMINISTIC = [row for row in CERTIFIERS if row.deterministic and row.layers]
NAMES = [row.name for row in DETERMINISTIC]


class Lines(nn.Module):
    """A forward pass around one linear layer, in a precision."""

    def __init__(self, before, weight, bias=(0.0, 0.0), after=lambda h: h, dtype=torch.float32):
        super().__init__()
        self.before, self.after = before, after
        self.head = nn.Linear(len(weight[0]), len(weight)).to(dtype)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor(weight))
            self.head.bias.copy_(torch.tensor(bias))

    def forward(self, inputs):
        return self.after(self.head(self.before(inputs)))


def certified(model, inputs, threat="linf:0", box=(0.0, 1.0)):
    """Return which inputs any certifier proves to be of class 0; a refusal proves nothing."""
    found = torch.zeros(len(inputs), dtype=torch.bool)
    try:
        graph = read(model, inputs)
        for name in NAMES:
            found |= certify(name, graph, inputs, torch.zeros(len(inputs), dtype=torch.long), threat, box=box).certified
    except UnsupportedError:
        pass
    return found


def strictly_first(outputs):
    return outputs[:, 0] > outputs[:, 1]


CASES = {
    # 1e41 is ∞ in float32: 0 · ∞ is NaN, and so is what follows, though every product is small.
    "a factor beyond the range": (
        Lines(lambda h: ((h - 0.5).relu() * 1e41) * 1e-41, [[1.0], [0.0]], (1.0, 0.0)),
        torch.tensor([[0.25]]),
    ),
    # 1e-46 is 0 in float32, and what it multiplied is gone before it is made large again.
    "a factor that is zero": (
        Lines(lambda h: ((h * 1e30) * 1e-46) * 1e16, [[1.0], [0.0]], (0.0, 0.5)),
        torch.tensor([[1.0]]),
    ),
    # The hidden sum leaves the range, the logits would not.
    "a hidden value beyond the range": (
        Lines(lambda h: ((h * 1e38) * 30.0) * 1e-38, [[-1.0], [0.0]], (40.0, 0.0)),
        torch.tensor([[1.0]]),
    ),
    "pixels of 0 to 255 in float16": (
        Lines(lambda h: h * 300.0, [[-1e-3], [0.0]], (80.0, 0.0), dtype=torch.float16),
        torch.tensor([[255.0]], dtype=torch.float16),
    ),
    # Logits of 1e-42 are multiples of 1.4e-45: the relative rounding is 1e-3, not 6e-8.
    "logits below the normal numbers": (
        Lines(lambda h: h, [[1.0], [0.0]], (0.0, 0.7), after=lambda z: z * 1e-45),
        torch.tensor([[0.9]]),
    ),
    "logits below the normal numbers of float64": (
        Lines(lambda h: h, [[1.0], [0.0]], (0.0, 0.7), after=lambda z: z * 4e-324, dtype=torch.float64),
        torch.tensor([[0.9]], dtype=torch.float64),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_certified_where_the_models_own_numbers_fail(case):
    model, inputs = CASES[case]
    box = (0.0, 255.0) if float(inputs.max()) > 1 else (0.0, 1.0)
    assert not bool(strictly_first(model(inputs)).any()), "the model answers: the case shows nothing"
    assert not bool(certified(model, inputs, box=box).any())


def test_the_same_network_without_the_failure_is_certified():
    model = Lines(lambda h: ((h - 0.5).relu() * 1e20) * 1e-20, [[1.0], [0.0]], (1.0, 0.0))
    assert bool(certified(model, torch.tensor([[0.25]])).all())


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_proof_holds_around_the_inputs_and_around_what_a_search_makes_of_them(sign):
    # In float32 the input is 1e6, far outside ε + τ, and the answer is another.
    inputs, box = torch.tensor([[1e6 + 0.03124]], dtype=torch.float64), (1e6, 1e6 + 1)
    model = Lines(lambda h: h - 1e6, [[64.0 * sign], [0.0]], (-sign, 0.0))
    given, rounded = (float(sign * (64 * (point - 1e6) - 1)) for point in (inputs.double(), inputs.float().double()))
    assert min(given, rounded) < 0 < max(given, rounded)
    graph = read(model, inputs)
    for name, norm in [(row.name, norm) for row in DETERMINISTIC for norm in row.norms]:
        proof = certify(name, graph, inputs, torch.tensor([0]), f"{norm}:0", box=box)
        assert float(proof.margin) <= min(given, rounded)


def test_lengths_whose_squares_underflow_are_not_taken_for_zero():
    # Rows of 1e-170 have squares of 0: their length, and with it what an l2 ball can do, must not be 0.
    model = Lines(lambda h: h, [[1.0, 1.0], [0.0, 0.0]], after=lambda z: z * 1e-170, dtype=torch.float64)
    model.head.bias.data[1] = 0.9
    graph = read(model, torch.full((1, 2), 0.5, dtype=torch.float64))
    inputs = torch.full((1, 2), 0.5, dtype=torch.float64)
    for name in NAMES:
        proof = certify(name, graph, inputs, torch.tensor([0]), "l2:0.25", box=(0.0, 1.0))
        assert float(proof.margin) <= (1.0 - 0.9 - 0.25 * 2**0.5) * 1e-170
        assert not bool(proof.certified.any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inputs_on_a_limit_that_their_precision_rounds_outward_are_served(dtype):
    # 0.1 is 0.10009765625 in bfloat16 and 0.0999755859375 in float16; a box of 0.1 means these.
    box, inputs = (0.1, 0.7), torch.tensor([[0.1], [0.7]], dtype=dtype)
    graph = read(Lines(lambda h: h, [[1.0], [0.0]], (1.0, 0.0), dtype=dtype), inputs)
    for name in NAMES:
        proof = certify(name, graph, inputs, torch.tensor([0, 0]), "linf:inf", box=box)
        assert bool((proof.margin <= float(inputs.double().min()) + 1.0).all())
        assert bool(proof.certified.all())
