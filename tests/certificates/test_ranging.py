"""Ranges of outputs: nothing that the threat allows leaves them, and tighter certifiers narrow them."""

import itertools

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.errors import InputError, UnsupportedError

BOX = (0.0, 1.0)
NESTED = ("interval", "crown", "alpha-crown")
SIZES = {"linf": 0.1, "l2": 0.3, "l1": 0.5, "l0": 1}


class Flat(nn.Module):
    """One number for each input, without an axis for it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return self.inner(inputs)[:, 0]


def network(features=6, outputs=3, seed=0, scale=1.0):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(features, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, outputs))
    for part in (made[-1].weight, made[-1].bias):
        part.data *= scale
    return made.requires_grad_(False)


def allowed(inputs, norm, size, count, generator):
    """Points of the set around each input, many of them where a norm ball ends: (count, B, *F)."""
    moves = torch.randn(count, *inputs.shape, generator=generator)
    if norm == "linf":
        moves = moves.sign() * size
    elif norm == "l0":
        chosen = torch.rand(count, *inputs.shape, generator=generator).argsort(2) < size
        return torch.where(chosen, moves.sign().clamp(min=0), inputs)
    else:
        order = {"l2": 2, "l1": 1}[norm]
        moves = moves * (torch.rand(moves.shape, generator=generator) < 0.5)
        moves = moves / torch.linalg.vector_norm(moves, order, 2, keepdim=True).clamp(min=1e-9) * size * 0.999999
    return (inputs + moves).clamp(0, 1)


@pytest.mark.parametrize("norm", SIZES)
def test_no_input_of_the_set_leaves_the_ranges_and_they_are_nested(norm):
    model, inputs = network(), torch.rand(3, 6)
    graph, threat = read(model, inputs), f"{norm}:{SIZES[norm]}"
    found = [tb.output_ranges(name, graph, inputs, threat, box=BOX) for name in NESTED]
    for wide, narrow in itertools.pairwise(found):
        assert bool((narrow.lower >= wide.lower).all())
        assert bool((narrow.upper <= wide.upper).all())
        assert bool((narrow.exact_lower >= wide.exact_lower).all())
    assert bool((found[1].width < found[0].width).any())
    best = found[-1]
    assert bool((best.lower <= best.exact_lower).all())
    assert bool((best.upper >= best.exact_upper).all())
    points = allowed(inputs, norm, SIZES[norm], 2000, torch.Generator().manual_seed(1))
    outputs = model(points.flatten(0, 1)).unflatten(0, (2000, 3))
    assert bool((outputs >= best.lower).all())
    assert bool((outputs <= best.upper).all())
    reached = (outputs.amax(0) - outputs.amin(0)) / best.width
    assert float(reached.median()) > 0.3, "ranges that are merely very wide would pass"


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_no_attack_on_an_output_leaves_its_range(side):
    """Regressors: the search for a large error of a target far away climbs, or descends, the output."""
    inner, inputs = network(outputs=1), torch.rand(4, 6)
    model = tb.wrap(inner, box=BOX, task="regression:tolerance=1")
    found = tb.output_ranges("alpha-crown", model, inputs, "linf:0.1")
    labels = inner(inputs) - side * 0.5
    hit = tb.attack("pgd", model, inputs, labels, "linf:0.1", steps=30, stop_early=False)
    outputs = inner(hit.adversarial)
    assert bool((outputs >= found.lower).all())
    assert bool((outputs <= found.upper).all())


def test_the_ranges_of_a_tiny_network_are_those_of_every_pattern():
    """One input value: the function is linear between the places at which a ReLU turns, so its ends are known."""
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 2)).requires_grad_(False).double()
    inputs, size = torch.tensor([[0.4]]).double(), 0.05
    turns = (-model[0].bias / model[0].weight[:, 0]).clamp(0.4 - size, 0.4 + size)
    outputs = model(torch.cat([turns, torch.tensor([0.4 - size, 0.4 + size]).double()]).unsqueeze(1))
    found = tb.output_ranges("alpha-crown", model, inputs, f"linf:{size}", box=BOX)
    low, high = outputs.amin(0), outputs.amax(0)
    assert bool((found.exact_lower[0] <= low).all())
    assert bool((found.exact_upper[0] >= high).all())
    # τ widens the set by a millionth; unstable neurons cost little in so small a set.
    ends = torch.stack([found.exact_lower[0], found.exact_upper[0]])
    torch.testing.assert_close(ends, torch.stack([low, high]), rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales(scale):
    model, inputs = network(scale=scale), torch.rand(2, 6)
    found = tb.output_ranges("crown", model, inputs, "linf:0.05", box=BOX)
    points = allowed(inputs, "linf", 0.05, 500, torch.Generator().manual_seed(0))
    outputs = model(points.flatten(0, 1)).unflatten(0, (500, 2)).double()
    assert bool(((outputs >= found.lower) & (outputs <= found.upper)).all())
    assert bool((found.width < 100 * scale).all())


def test_what_may_round_beyond_all_bounds_is_infinite_as_it_runs_and_known_in_exact_arithmetic():
    """Sums of 200 numbers in bfloat16: no bound of their rounding is known, though the weights are small."""
    model = nn.Linear(200, 2).requires_grad_(False).bfloat16()
    inputs = torch.rand(1, 200).bfloat16()
    found = tb.output_ranges("crown", model, inputs, "linf:0.0625", box=BOX)
    assert found.lower.tolist() == [[-torch.inf, -torch.inf]]
    assert found.upper.tolist() == [[torch.inf, torch.inf]]
    exact = model.double()(inputs.double())
    assert bool(((found.exact_lower < exact) & (exact < found.exact_upper)).all())
    assert bool((found.exact_upper - found.exact_lower < 2 * 200 * 0.0625 * 0.1).all())
    assert "bounds 0 of 2 outputs" in repr(found)


def test_outputs_of_any_shape():
    inputs = torch.rand(2, 1, 4, 4)
    column = nn.Sequential(nn.Flatten(), network(16, 1))
    found = tb.output_ranges("crown", column, inputs, "linf:0.02", box=BOX)
    assert found.lower.shape == (2, 1)
    assert bool(((column(inputs) >= found.lower) & (column(inputs) <= found.upper)).all())
    with pytest.raises(UnsupportedError, match="keep the axis"):
        tb.output_ranges("crown", Flat(column), inputs, "linf:0.02", box=BOX)
    torch.manual_seed(0)
    maps = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 3, 1)).requires_grad_(False)
    small = resolve("crown", memory=2**12)[0]  # too little for all rows at once: the same limits, in parts
    for method in ("crown", small):
        found = tb.output_ranges(method, maps, inputs, "linf:0.02", box=BOX)
        assert found.upper.shape == (2, 3, 4, 4)
        assert bool(((maps(inputs) >= found.lower) & (maps(inputs) <= found.upper)).all())
        assert float(found.width.max()) < 0.5


def test_sizes_batches_and_coarse_precisions():
    model, inputs = network(), torch.rand(3, 6)
    sizes = torch.tensor([0.0, 0.05, 0.1], dtype=torch.float64)
    found = tb.output_ranges("crown", model, inputs, "linf:0.5", box=BOX, sizes=sizes, batch_size=1)
    assert float(found.width[0].max()) < 1e-4
    one = tb.output_ranges("crown", model, inputs[2:], "linf:0.1", box=BOX)
    torch.testing.assert_close(found.lower[2:], one.lower, rtol=0, atol=1e-12)
    half = tb.output_ranges("crown", network().bfloat16(), inputs.bfloat16(), "linf:0.02", box=BOX)
    assert bool((half.exact_upper - half.exact_lower <= half.width).all())
    assert float((half.exact_upper - half.exact_lower).max()) < 0.5


def test_what_has_no_ranges_is_refused_in_a_sentence():
    model, inputs = network(), torch.rand(2, 6)
    with pytest.raises(UnsupportedError, match=r"branch-and-bound has none under linf. Take one of interval, "):
        tb.output_ranges("branch-and-bound", model, inputs, "linf:0.1", box=BOX)
    with pytest.raises(UnsupportedError, match=r"smoothing has none under l2. Take one of"):
        tb.output_ranges("smoothing", model, inputs, "l2:0.1", box=BOX)
    with pytest.raises(UnsupportedError, match=r"crown has none under patch.$"):
        tb.output_ranges("crown", model, inputs, "patch:2", box=BOX)
    with pytest.raises(UnsupportedError, match=r"ends in log-softmax"):
        tb.output_ranges("crown", nn.Sequential(model, nn.LogSoftmax(1)), inputs, "linf:0.1", box=BOX)
    with pytest.raises(InputError, match=r"needs the box"):
        tb.output_ranges("crown", model, inputs, "linf:0.1")
    with pytest.raises(InputError, match=r"`inputs` must be a float tensor"):
        tb.output_ranges("crown", model, [1], "linf:0.1", box=BOX)
    with pytest.raises(InputError, match=r"`batch_size` must be"):
        tb.output_ranges("crown", model, inputs, "linf:0.1", box=BOX, batch_size=0)
