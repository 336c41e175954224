"""Softmax, layer, group and root mean square norm, attention: limits, planes, kernels' rounding, refusals."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustbound.certificates.graph import normalisation, read
from trustbound.certificates.graph.normalisation import Centre, Root, Softmax, Spread
from trustbound.certificates.methods import share_lines
from trustbound.certificates.methods.backward import Coefficients
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Bounds, Interval, interval_bounds
from trustbound.certificates.methods.share_lines import relax_root, relax_softmax, through_softmax
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError

COUNT = 4


def drawn(seed: int, count: int = 300) -> Bounds:
    """Limits of four numbers: points, slivers, ordinary ones, ones that leave nothing known."""
    chance = torch.Generator().manual_seed(seed)
    middle = torch.randn(count, COUNT, generator=chance, dtype=torch.float64) * 10 ** (
        torch.rand(count, 1, generator=chance, dtype=torch.float64) * 4 - 2
    )
    width = 10 ** (torch.rand(count, COUNT, generator=chance, dtype=torch.float64) * 9 - 7)
    width[:20] = 0.0
    return Bounds(low=middle - width, high=middle + width)


def sampled(bounds: Bounds, seed: int = 0) -> torch.Tensor:
    """All corners of the limits, and points between them."""
    signs = torch.tensor(list(itertools.product((0.0, 1.0), repeat=COUNT)), dtype=torch.float64)
    chance = torch.Generator().manual_seed(seed)
    shares = torch.cat([signs, torch.rand(400, COUNT, generator=chance, dtype=torch.float64)])
    return torch.lerp(bounds.low, bounds.high, shares.unsqueeze(1))


STEP = Softmax(sources=(0,), shape=(COUNT,))


def test_limits_of_shares_are_reached_at_corners():
    bounds = drawn(1)
    least, most = STEP.limits(bounds.low, bounds.high)
    shares = sampled(bounds).softmax(-1)
    assert (least <= shares.amin(0)).all()
    assert (most >= shares.amax(0)).all()
    torch.testing.assert_close(least, shares.amin(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(most, shares.amax(0), rtol=1e-9, atol=1e-12)


def test_limits_of_many_shares_hold_what_limits_one_by_one_hold(monkeypatch):
    for seed in range(3):
        bounds = drawn(seed)
        exact = STEP.limits(bounds.low, bounds.high)
        with monkeypatch.context() as patch:
            patch.setattr(normalisation, "PAIRED", 1)
            found = STEP.limits(bounds.low, bounds.high)
        assert (found[0] <= exact[0] * (1 + 1e-12)).all()
        assert (found[1] >= exact[1] * (1 - 1e-12)).all()
        near = (bounds.high - bounds.low).amax(1) < 1
        torch.testing.assert_close(found[0][near], exact[0][near], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found[1][near], exact[1][near], rtol=1e-9, atol=1e-12)


def test_planes_that_would_hold_too_much_are_constants(monkeypatch):
    monkeypatch.setattr(share_lines, "HELD", 1)
    bounds = drawn(2)
    planes, (least, most) = relax_softmax(STEP, bounds), STEP.limits(bounds.low, bounds.high)
    assert torch.equal(planes.floor, least)
    assert torch.equal(planes.shift, most)
    rows = torch.ones(1, 1, COUNT, dtype=torch.float64)
    constant, (back,) = through_softmax(Coefficients(owner=torch.tensor([7]), coefficients=rows), planes)
    assert not back.coefficients.any()
    torch.testing.assert_close(constant[0, 0], least[7].sum())


def gaps(bounds: Bounds, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far planes lie below and above the shares at points (N, B, n)."""
    found, shares = relax_softmax(STEP, bounds), points.softmax(-1)
    below = torch.einsum("bjk,nbk->nbj", found.below, points) + found.floor
    above = torch.einsum("bjk,nbk->nbj", found.above, points) + found.shift
    return shares - below, above - shares


def test_planes_are_on_their_side_of_the_shares():
    for seed in range(5):
        bounds = drawn(seed)
        below, above = gaps(bounds, sampled(bounds, seed))
        assert float(below.min()) >= 0
        assert float(above.min()) >= 0


def test_planes_are_close_where_limits_are():
    """The distance shrinks with the square of the limits' width."""
    middle = torch.randn(50, COUNT, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for width in (0.5, 0.05, 0.005):
        bounds = Bounds(low=middle - width, high=middle + width)
        for gap in gaps(bounds, sampled(bounds)):
            assert float(gap.max()) < 2 * width**2


def test_a_plane_above_without_its_chord_is_seen_to_cut():
    """A planted fault: the tangent of log S is put in place of the chord of its exponential."""
    bounds = drawn(0)
    points, middle = sampled(bounds), (bounds.low + bounds.high) / 2
    share = middle.softmax(-1)
    slope = share.unsqueeze(-1) * (torch.eye(COUNT).double() - share.unsqueeze(-2))
    wrong = share + torch.einsum("bjk,nbk->nbj", slope, points - middle)
    assert float((wrong - points.softmax(-1)).min()) < -0.01


def test_the_way_back_takes_each_plane_on_its_side():
    bounds = drawn(5, 3)
    planes = relax_softmax(STEP, bounds)
    rows = torch.randn(2, 3, COUNT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    owner = torch.tensor([2, 0])
    constant, (back,) = through_softmax(Coefficients(owner=owner, coefficients=rows), planes)
    for group, row in itertools.product(range(2), range(3)):
        given, own = rows[group, row], int(owner[group])
        parts = (given.clamp(min=0), given.clamp(max=0))
        torch.testing.assert_close(
            back.coefficients[group, row], parts[0] @ planes.below[own] + parts[1] @ planes.above[own]
        )
        torch.testing.assert_close(constant[group, row], parts[0] @ planes.floor[own] + parts[1] @ planes.shift[own])


def test_limits_that_are_no_numbers_give_no_shares():
    low = torch.tensor([[0.0, -torch.inf, 0.0, 0.0], [0.0, torch.nan, 0.0, 0.0]], dtype=torch.float64)
    bounds = Bounds(low=low, high=low.nan_to_num(torch.nan, neginf=1.0))
    found = relax_softmax(STEP, bounds)
    for part in (found.below, found.floor, found.above, found.shift, *STEP.limits(bounds.low, bounds.high)):
        assert part.isnan().all()


def test_lines_of_the_root_are_on_their_side():
    chance = torch.Generator().manual_seed(0)
    low = 10 ** (torch.rand(1, 2000, generator=chance, dtype=torch.float64) * 9 - 5)
    high = low * (1 + 10 ** (torch.rand(1, 2000, generator=chance, dtype=torch.float64) * 14 - 12))
    low[0, :20], high[0, 20:40] = -1.0, low[0, 20:40]
    step = Root(sources=(0,), shape=(2000,), least=1e-5)
    found, ends = relax_root(step, Bounds(low=low, high=high)), step.limits(low, high)
    points = torch.lerp(low.clamp(min=1e-5), high, torch.linspace(0, 1, 401, dtype=torch.float64).reshape(-1, 1))
    values = points.rsqrt()
    assert (found.below * points + found.floor <= values).all()
    assert (found.above * points + found.shift >= values).all()
    assert ((ends[0] <= values) & (values <= ends[1])).all()
    chord = (values[0] + values[-1]) / 2
    middle = (points[0] + points[-1]) / 2
    torch.testing.assert_close((found.above * middle + found.shift)[0], chord, rtol=1e-9, atol=1e-9)


def test_centring_is_the_matrix_that_it_stands_for():
    for count in (1, 2, 5):
        step, units = Centre(sources=(0,), shape=(count,)), torch.eye(count, dtype=torch.float64)
        matrix = step.apply(units)
        rows = torch.randn(3, count, dtype=torch.float64)
        torch.testing.assert_close(step.transpose(rows)[0], rows @ matrix)
        torch.testing.assert_close(step.absolute(units), matrix.abs())


class Part(nn.Module):
    """One function of inputs (B, 3, 4), with numbers far from zero beside their spread."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 0.1]))
        self.bias = nn.Parameter(torch.tensor([0.0, 3.0, -0.5, 0.1]))

    def forward(self, inputs):
        return self.function(inputs, self.weight, self.bias).flatten(1)


def attend(x, weight, bias):
    return F.scaled_dot_product_attention(x * weight, x, x + bias)


def heads(x, weight, bias):
    mixed = torch.stack([x * weight, x, x - bias], 2).reshape(-1, 3, 3, 2, 2).permute(2, 0, 3, 1, 4)
    query, key, value = mixed.unbind(0)
    return F.scaled_dot_product_attention(query, key, value, scale=0.3).transpose(1, 2).reshape(-1, 3, 4)


def by_hand(x, weight, bias):
    mixed = torch.stack([x * weight, x, x - bias], 2).permute(2, 0, 1, 3)
    shares = (mixed[0] @ mixed[1].transpose(-2, -1) / 2).softmax(dim=-1)
    return shares @ mixed[2]


FORMS = {
    "softmax": lambda x, weight, bias: (x * weight).softmax(-1),
    "softmax of an inner axis": lambda x, weight, bias: F.softmax(x * weight, 1),
    "layer norm": lambda x, weight, bias: F.layer_norm(x, (4,), weight, bias),
    "layer norm of two axes": lambda x, weight, bias: F.layer_norm(x, (3, 4), eps=1e-3) * weight,
    "layer norm far from zero": lambda x, weight, bias: F.layer_norm(x + 30.0, (4,), weight),
    "group norm": lambda x, weight, bias: F.group_norm(x.mT, 2, weight, bias),
    "rms norm": lambda x, weight, bias: F.rms_norm(x, (4,), weight, 1e-5),
    "attention": attend,
    "attention of heads": heads,
    "attention by hand": by_hand,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_points_of_a_region_lie_within_the_bounds_in_every_precision(dtype):
    """All forms side by side; a region of no width asks about the kernels' rounding alone."""
    inputs = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(3)).to(dtype)

    def side_by_side(x, weight, bias):
        return torch.cat([form(x, weight, bias).flatten(1) for form in FORMS.values()], 1)

    model = Part(side_by_side).eval().to(dtype).requires_grad_(False)
    graph = read(model, inputs)
    rows = torch.eye(graph.classes, dtype=torch.float64).repeat(6, 1, 1)
    chance = torch.Generator().manual_seed(5)
    for radius in (0.0, 0.02):
        region = Region.around(inputs, (0.0, 1.0), "linf", radius)
        found, crown = interval_bounds(graph, region)[-1], Crown().bounds(graph, region, rows)
        assert crown.run.isfinite().all()
        for _ in range(30 if radius else 1):
            points = torch.lerp(region.low, region.high, torch.rand(inputs.shape, generator=chance).double())
            points = (points if radius else inputs).to(dtype)
            inside = ((points >= region.low) & (points <= region.high)).flatten(1).all(1)
            logits = model(points).double()
            assert ((logits >= found.low) & (logits <= found.high))[inside].all()
            assert (logits >= crown.run)[inside].all()
        if not radius and dtype == torch.float32:
            assert float((graph(inputs.double()) - crown.value).abs().max()) < 0.05


def test_sums_of_squares_are_charged_for_a_mean_that_dwarfs_their_spread():
    """Kernels that know the mean of the first numbers only lose n u · mean / deviation: every step is within."""
    graph = read(Part(lambda x, weight, bias: F.layer_norm(x, (64,))).eval(), torch.rand(2, 3, 64))
    assert any(isinstance(step, Spread) for step in graph.operations)
    for shift, spread in ((100.0, 1.0), (1000.0, 0.1), (1e4, 1e-2)):
        noise = torch.randn(50, 3, 64, generator=torch.Generator().manual_seed(1)) * spread + shift
        region = Region.around(noise, (-1e6, 1e6), "linf", 0.0)
        found, values = interval_bounds(graph, region)[-1], F.layer_norm(noise, (64,)).flatten(1)
        assert ((values >= found.low) & (values <= found.high)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_softmax_kernels_are_off_by_less_than_half_of_what_is_charged(dtype):
    for count, size in itertools.product((2, 17, 1000), (1e-3, 1.0, 30.0, 300.0)):
        values = (torch.randn(40, count, generator=torch.Generator().manual_seed(2)) * size).to(dtype)
        truth = values.double().softmax(-1)
        off = (values.softmax(-1).double() - truth).abs()
        charged = Softmax(sources=(0,), shape=(count,)).relative(dtype) * truth
        assert (off <= charged / 2 + 16 * torch.finfo(dtype).smallest_normal).all()


class Encoder(nn.Module):
    """torch's own encoder of a transformer, whose attention lays heads beside the batch."""

    def __init__(self, **options):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True, **options)
        self.mixed = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, inputs):
        hidden = self.layer(inputs)
        found, _ = self.mixed(hidden, inputs, hidden)
        return (found + hidden).flatten(1)


def test_torchs_own_transformers_are_read_and_bounded():
    torch.manual_seed(0)
    model = Encoder(norm_first=True, activation="gelu").eval().requires_grad_(False)
    inputs = torch.rand(3, 3, 4)
    graph = read(model, inputs)
    torch.testing.assert_close(graph(inputs.double()).float(), model(inputs), rtol=1e-4, atol=1e-5)
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.01)
    rows = torch.eye(12, dtype=torch.float64).repeat(3, 1, 1)
    crown, found = Crown().bounds(graph, region, rows), interval_bounds(graph, region)[-1]
    for seed in range(40):
        points = torch.lerp(
            region.low, region.high, torch.rand(inputs.shape, generator=torch.Generator().manual_seed(seed)).double()
        )
        logits = model(points.float()).double()
        assert ((logits >= found.low) & (logits <= found.high) & (logits >= crown.run)).all()
    assert (model(inputs) - crown.run < 1.0).all()


REFUSED = {
    "softmax over the batch": lambda x, w, b: x.softmax(0),
    "a mask": lambda x, w, b: F.scaled_dot_product_attention(x, x, x, attn_mask=x.mean(2, keepdim=True).mT),
    "an eps of zero": lambda x, w, b: F.layer_norm(x, (4,), eps=0.0),
    "parts along the batch": lambda x, w, b: x.permute(1, 0, 2)[:, 0] + x[:, 0],
    "the batch axis is moved": lambda x, w, b: (x.permute(1, 0, 2) + 2.0).permute(1, 0, 2),
    "the batch axis is cut": lambda x, w, b: x.reshape(3, -1, 4).permute(1, 0, 2),
    "heads that are laid before the batch": lambda x, w, b: x.permute(1, 0, 2).reshape(-1, 4).reshape(-1, 3, 4),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_rule_is_refused(name):
    with pytest.raises(UnsupportedError, match="no proof"):
        read(Part(REFUSED[name]).eval(), torch.rand(4, 3, 4))


class LastChannels(nn.Module):
    """A group norm of maps whose channels lie last in memory, as a permuted view or another layout leaves them."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.GroupNorm(16, 32), nn.Linear(32 * 64, 2)

    def forward(self, inputs):
        return self.head(self.norm(inputs.permute(0, 3, 1, 2)).flatten(1))


def test_group_norm_of_channels_that_lie_last_is_charged_for_what_its_kernel_cancels():
    # Its variance is E[x²] − E[x]²: of numbers near 1,000 that differ by 0.1 nothing is left of it in float32.
    torch.manual_seed(0)
    network = LastChannels()
    inputs = torch.cat([2000 * torch.rand(8, 8, 8, 32), 1000 + 0.1 * torch.randn(8, 8, 8, 32)])
    with torch.no_grad():
        run = (network(inputs)[:, 0] - network(inputs)[:, 1]).double()
        exact = copy.deepcopy(network).double()(inputs.double())
        exact = exact[:, 0] - exact[:, 1]
    graph, far = read(network, inputs), (run - exact).abs()
    assert far.amax() > 1
    region = Region.around(inputs, (0.0, 2000.0), "linf", 0.0)
    for label, sign in ((0, 1.0), (1, -1.0)):
        bound = Interval().margins(graph, region, torch.full((len(inputs),), label))
        assert (bound.run <= sign * run).all()
        assert (bound.value <= sign * exact).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_root_mean_square_norm_whose_eps_is_left_open_takes_that_of_torch(dtype):
    # Torch takes float32's for shorter types too: a mean of squares of 2e-4 is far below bfloat16's own.
    torch.manual_seed(0)
    network = nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 3)).to(dtype)
    inputs = (torch.rand(12, 4) * torch.tensor([[1.0]] * 8 + [[0.02], [0.01], [1e-3], [1e-4]])).to(dtype)
    graph = read(network, inputs)
    with torch.no_grad():
        run = network(inputs).double()
    share = torch.finfo(dtype).eps * 8
    assert ((graph(inputs.double()) - run).abs() <= share * (1 + run.abs())).all()
    region, labels = Region.around(inputs, (0.0, 1.0), "linf", 0.0), run.argmax(1)
    margin = run.gather(1, labels.unsqueeze(1)) - run
    assert (Interval().margins(graph, region, labels).run <= margin.scatter(1, labels.unsqueeze(1), 9.0).amin(1)).all()
