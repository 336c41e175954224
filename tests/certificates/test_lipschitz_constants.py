"""Lipschitz constants: no pair of inputs exceeds the upper bound, two inputs attain the lower one, graphs compose."""

import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.layer_table import rounded_up
from trustbound.errors import InputError, UnsupportedError
from trustbound.model import build

NORMS = ("l2", "l1", "linf")
ORDER = {"l2": 2, "l1": 1, "linf": math.inf}


def dense(seed, activation=nn.ReLU):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(2, 12), activation(), nn.Linear(12, 10), activation(), nn.Linear(10, 3)).double()
    for weight in network.parameters():
        weight.data *= 2
    return network


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU])
@pytest.mark.parametrize("seed", range(2))
def test_the_bounds_enclose_the_constant_that_a_fine_grid_shows(seed, activation):
    network = dense(seed, activation)
    side = torch.linspace(0, 1, 100, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    jacobians = torch.vmap(torch.func.jacrev(network))(points).detach()
    found = tb.lipschitz(network, (2,), box=(0.0, 1.0), norms=NORMS)
    for norm in NORMS:
        truth = float(torch.linalg.matrix_norm(jacobians, ORDER[norm]).max())
        assert found.upper[norm] >= truth
        # Between the points of the grid the truth may lie a little higher.
        assert 0.5 * truth < found.lower[norm] < 1.01 * truth


@pytest.mark.parametrize("norm", NORMS)
def test_the_lower_bound_is_attained_by_two_inputs_of_the_box(norm):
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    ).eval()
    model, inputs = tb.wrap(network, box=(-0.5, 1.0)), torch.rand(6, 1, 8, 8)
    found = tb.lipschitz(model, inputs, norms=norm)
    pair = found.secants[norm]
    assert pair.first.min() >= -0.5
    assert pair.second.max() <= 1.0
    outputs = [network.double()(point.unsqueeze(0))[0] for point in (pair.first, pair.second)]
    away = torch.linalg.vector_norm((pair.first - pair.second).flatten(), ORDER[norm])
    slope = float(torch.linalg.vector_norm(outputs[0] - outputs[1], ORDER[norm]).detach() / away)
    assert 0 <= slope - found.lower[norm] <= 1e-8 * slope
    # No Jacobian at the inputs is steeper: the ascent began there.
    jacobians = torch.vmap(torch.func.jacrev(lambda point: network(point.unsqueeze(0))[0]))(inputs.double())
    steepest = max(float(torch.linalg.matrix_norm(one.flatten(1), ORDER[norm])) for one in jacobians.detach())
    assert found.lower[norm] > 0.9 * steepest
    assert found.lower[norm] <= found.upper[norm]
    assert found.ratio[norm] == found.upper[norm] / found.lower[norm]


class Branches(nn.Module):
    """Constants that are known: x + 2 x, then [x, 3 x], each scaled."""

    def __init__(self, join):
        super().__init__()
        self.join, self.first, self.second = join, nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.first.weight.data = 2 * torch.eye(3)
        self.second.weight.data = 3 * torch.eye(3)

    def forward(self, inputs):
        left, right = self.first(inputs), self.second(inputs)
        return (
            left + right
            if self.join == "sum"
            else left - 2 * right
            if self.join == "less"
            else torch.cat([left, right], 1)
        )


@pytest.mark.parametrize(
    ("join", "known"),
    [
        ("sum", dict.fromkeys(NORMS, 5)),
        ("less", dict.fromkeys(NORMS, 8)),
        ("beside", {"l2": 13**0.5, "l1": 5, "linf": 3}),
    ],
)
def test_branches_add_and_are_not_multiplied(join, known):
    found = tb.lipschitz(Branches(join), torch.rand(2, 3), box=(0.0, 1.0), norms=NORMS)
    for norm in NORMS:
        assert known[norm] <= found.upper[norm] <= known[norm] * (1 + 1e-6)
        if join != "less":
            assert found.lower[norm] == pytest.approx(known[norm], rel=1e-6)
    assert found.layers[-1].upper is None
    assert found.layers[-1].gain == {norm: pytest.approx(found.upper[norm]) for norm in NORMS}


def alexnet(width):
    """The shape of AlexNet, with 1/width of its channels."""
    first, second, third, fourth, fifth, full = (side // width for side in (96, 256, 384, 384, 256, 4096))
    return nn.Sequential(
        nn.Conv2d(3, first, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(first, second, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(second, third, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(third, fourth, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(fourth, fifth, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Flatten(), nn.Linear(fifth * 4, full), nn.ReLU(), nn.Linear(full, full), nn.ReLU(), nn.Linear(full, 10),
    )  # fmt: skip


def test_the_table_is_that_of_the_layers():
    torch.manual_seed(0)
    network = alexnet(32)
    found = tb.lipschitz(network, (3, 96, 96), box=(0.0, 1.0), steps=3)
    rows = {row.name: row for row in found.layers}
    assert list(rows) == [str(index) for index in (0, 2, 3, 5, 6, 8, 10, 12, 14, 16, 18)]
    assert [rows[name].size for name in ("0", "3", "12", "14")] == [(3, 11, 11, 3), (3, 5, 5, 8), (3, 3), (32, 128)]
    assert [rows[name].stride for name in ("0", "3", "14")] == [(4, 4), (1, 1), None]
    product = math.prod(row.upper["l2"] for row in found.layers)
    assert found.upper["l2"] == pytest.approx(product, rel=1e-6)
    # Windows of 3 with stride 2 overlap: an input can stand in four.
    assert rows["2"].upper["l2"] == 2
    said = repr(found)
    assert said.splitlines()[0].split("  ")[0] == "Layer"
    assert "3 × 11 × 11 × 3  4 " in said
    assert f"Lipschitz constant ≤ {rounded_up(found.upper['l2'])}" in said
    table = found.to_frame()
    assert list(table.columns) == ["name", "kind", "size", "stride", "upper_l2", "gain_l2"]
    assert table["gain_l2"].iloc[-1] == pytest.approx(found.upper["l2"])


def test_whole_architectures_have_a_table():
    network = build("wrn-28-10", seed=0, input_shape=[3, 8, 8], classes=10, depth=10, width=1)
    model = tb.wrap(network, box=(0.0, 1.0), classes=10)
    found = tb.lipschitz(model.eval(), (3, 8, 8), steps=3)
    assert 0 < found.lower["l2"] < found.upper["l2"] < math.inf
    joined = [row for row in found.layers if row.upper is None]
    assert len(joined) == 3
    # A sum of branches is what both come to, not their product.
    assert found.upper["l2"] == gains(read(model, torch.rand(1, 3, 8, 8)))[-1] * (1 + 1e-12)


def test_log_softmax_is_left_out_and_normalisation_is_in():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    plain = tb.lipschitz(tb.wrap(network, box=(0.0, 1.0)), (1, 2, 2))
    last = tb.lipschitz(tb.wrap(nn.Sequential(*network, nn.LogSoftmax(1)), box=(0.0, 1.0)), (1, 2, 2))
    assert last.upper["l2"] == plain.upper["l2"]
    scaled = tb.lipschitz(tb.wrap(network, box=(0.0, 1.0), mean=[0.5], std=[0.25]), (1, 2, 2))
    assert scaled.upper["l2"] == pytest.approx(4 * plain.upper["l2"], rel=1e-6)


def test_the_same_seed_gives_the_same_bits_and_the_model_stays_as_it_is():
    network = dense(0)
    before = [weight.clone() for weight in network.parameters()]
    state = torch.get_rng_state()
    first, second, third = (tb.lipschitz(network, (2,), box=(0.0, 1.0), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.secants["l2"].first, second.secants["l2"].first)
    assert not torch.equal(first.secants["l2"].first, third.secants["l2"].first)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one, other) for one, other in zip(before, network.parameters(), strict=True))
    assert all(weight.grad is None and weight.requires_grad for weight in network.parameters())


class Product(nn.Module):
    def forward(self, inputs):
        return (inputs @ inputs.mT).softmax(2) @ inputs


def test_what_has_no_constant_is_refused_by_name():
    vit = tb.wrap(build("vit-small", seed=0, input_shape=[3, 8, 8], classes=3, dim=8, depth=1, heads=2), box=(0.0, 1.0))
    with pytest.raises(UnsupportedError, match=r"blocks\.0\.attention \(Attention\): dot-product attention has none"):
        tb.lipschitz(vit, (3, 8, 8))
    attention = nn.Sequential(nn.Unflatten(1, (2, 4)), nn.TransformerEncoderLayer(4, 2, 8), nn.Flatten())
    with pytest.raises(UnsupportedError, match=r"1\.self_attn \(MultiheadAttention\): dot-product attention has none"):
        tb.lipschitz(attention, (8,), box=(0.0, 1.0))
    with pytest.raises(UnsupportedError, match="values that"):
        tb.lipschitz(nn.Sequential(Product(), nn.Flatten()), (3, 2), box=(0.0, 1.0))
    with pytest.raises(UnsupportedError, match=r"1 \(Mish\)"):
        tb.lipschitz(nn.Sequential(nn.Linear(2, 2), nn.Mish()), (2,), box=(0.0, 1.0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"norms": "l3"}, "`norms` must be some of l2, l1, linf; got 'l3'"),
        ({"norms": ()}, "`norms` must be some of"),
        ({"steps": 0}, "`steps` must be a whole number"),
        ({"box": None}, "needs the box"),
        ({"inputs": torch.rand(0, 2)}, "with B ≥ 1"),
        ({"inputs": torch.zeros(3, 2, dtype=torch.int64)}, "float tensor"),
        ({"inputs": 2}, "or a shape"),
        ({"inputs": (2, 0)}, "or a shape"),
        ({"inputs": torch.rand(3, 2).numpy()}, "got ndarray"),
        ({"inputs": 2 * torch.ones(1, 2)}, "box"),
    ],
)
def test_what_makes_no_sense_is_refused(given, words):
    given = {"inputs": (2,), "box": (0.0, 1.0), **given}
    with pytest.raises(InputError, match=words):
        tb.lipschitz(dense(0), given.pop("inputs"), **given)


def test_a_network_that_overflows_or_does_nothing_says_so():
    network = nn.Linear(2, 2, bias=False)
    network.weight.data.zero_()
    found = tb.lipschitz(network, (2,), box=(0.0, 1.0))
    assert (found.lower["l2"], found.ratio["l2"]) == (0.0, math.inf)
    assert found.upper["l2"] < 1e-100
    assert "l2: 0 ≤ Lipschitz constant" in repr(found)
