"""Smooth activations: their constants, their kernels' rounding, their lines, and certificates that rest on them."""

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import curves, read
from trustbound.certificates.graph.curves import Smooth, softplus
from trustbound.certificates.methods import relaxed_network, supporting_lines
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Bounds, Interval, interval_bounds
from trustbound.certificates.methods.supporting_lines import relax_smooth
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError
from trustbound.threat.random import Random

CURVES = {
    "sigmoid": curves.SIGMOID,
    "tanh": curves.TANH,
    "silu": curves.SILU,
    "sine": curves.SINE,
    "cosine": curves.COSINE,
    "elu": curves.ELU,
    "gelu": curves.GELU,
    "gelu-tanh": curves.GELU_TANH,
    "softplus": softplus(1.0, 20.0),
    "steep softplus": softplus(5.0, 12.0),
}


class Wave(nn.Module):
    """A sine or a cosine of several periods, as networks of coordinates have them."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(3 * inputs)


MODULES = {
    "sine": Wave(torch.sin),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "silu": nn.SiLU(),
    "elu": nn.ELU(),
    "gelu": nn.GELU(),
    "gelu-tanh": nn.GELU(approximate="tanh"),
    "softplus": nn.Softplus(),
    "steep softplus": nn.Softplus(5.0, 12.0),
}


@pytest.mark.parametrize("name", list(CURVES))
def test_derivatives_are_below_their_bounds_and_near_them(name):
    curve = CURVES[name]
    points = torch.linspace(-12, 12, 480_001, dtype=torch.float64).requires_grad_()
    (first,) = torch.autograd.grad(curve.function(points).sum(), points, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), points)
    assert 0.97 * curve.steepness < float(first.detach().abs().max()) <= curve.steepness
    assert 0.95 * curve.bend < float(second.abs().max()) <= curve.bend * (1 + 1e-12)
    assert float(curve.function(torch.zeros(1)).abs()) <= 1
    falls = bool((first < -1e-12).any())
    assert falls == curve.falls
    if curve.crest is not None:
        waves = 2 * torch.pi * torch.arange(-3, 4) + curve.crest
        assert torch.equal(curve.function(waves).round(), torch.ones(7))
        assert torch.equal(curve.function(waves + torch.pi).round(), -torch.ones(7))
    elif falls:
        assert ((first > 0) == (points > curve.turn))[(points - curve.turn).abs() > 1e-6].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", list(CURVES))
def test_kernels_are_off_by_less_than_half_of_what_is_charged(name, dtype):
    curve = CURVES[name]
    wide = torch.cat([torch.linspace(-reach, reach, 50_001) for reach in (1e-3, 1.0, 10.0, 300.0)]).to(dtype)
    off = (curve.function(wide).double() - curve.function(wide.double())).abs()
    assert (off <= curve.jump + 0.5 * curve.roundoff(wide.double().abs(), dtype)).all()


def test_float64_kernels_agree_with_scipy():
    from scipy.special import erf, expit

    points = np.linspace(-40, 40, 20_001)
    truth = {
        "sigmoid": expit(points),
        "tanh": np.tanh(points),
        "silu": points * expit(points),
        "elu": np.where(points > 0, points, np.expm1(np.minimum(points, 0))),
        "sine": np.sin(points),
        "cosine": np.cos(points),
        "gelu": points * 0.5 * (1 + erf(points / np.sqrt(2))),
        "softplus": np.logaddexp(0, points),
        "steep softplus": np.logaddexp(0, 5 * points) / 5,
    }
    for name, wanted in truth.items():
        values, sizes = torch.from_numpy(points), torch.from_numpy(np.abs(points))
        off = np.abs(CURVES[name].function(values).numpy() - wanted)
        assert (off <= CURVES[name].roundoff(sizes, torch.float64).numpy()).all(), name


def drawn_limits(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Limits of all widths: points, slivers, ordinary ones and whole lines."""
    chance = torch.Generator().manual_seed(seed)
    middle = torch.randn(count, generator=chance, dtype=torch.float64) * 3
    width = 10 ** (torch.rand(count, generator=chance, dtype=torch.float64) * 10 - 8)
    width[: count // 20] = 0.0
    return middle - width / 2, middle + width / 2


def excess(name: str, low: torch.Tensor, high: torch.Tensor) -> float:
    """By how much the lines are on the wrong side somewhere, at most; below 0 where nowhere."""
    curve = CURVES[name]
    found = relax_smooth(
        Smooth(sources=(0,), shape=(len(low),), curve=curve), Bounds(low=low.unsqueeze(0), high=high.unsqueeze(0))
    )
    points = torch.lerp(low, high, torch.linspace(0, 1, 1001, dtype=torch.float64).unsqueeze(1))
    values = curve.function(points)
    below, above = found.below * points + found.floor, found.above * points + found.shift
    return float(torch.maximum(below - values, values - above).max())


@pytest.mark.parametrize("name", list(CURVES))
def test_lines_are_on_their_side_of_the_curve(name):
    assert excess(name, *drawn_limits(2000, 1)) <= 0.0


@pytest.mark.parametrize("name", list(CURVES))
def test_without_the_error_of_interpolation_lines_cut_the_curve(name, monkeypatch):
    """A planted fault: what lies between the points of the grid is forgotten."""
    low, high = drawn_limits(2000, 1)
    object_ = CURVES[name]
    monkeypatch.setitem(CURVES, name, type(object_)(function=object_.function, steepness=object_.steepness, bend=0.0))
    monkeypatch.setattr(supporting_lines, "CELLS", 4)
    assert excess(name, low, high) > 1e-6


@pytest.mark.parametrize("name", list(CURVES))
def test_lines_come_near_the_convex_envelope(name):
    """In the middle of the limits no line below can be higher than the envelope: that is scanned for."""
    curve = CURVES[name]
    low = torch.tensor([-3.0, -1.0, 0.5, -6.0, -0.1, 1.0], dtype=torch.float64)
    high = torch.tensor([2.0, 1.5, 4.0, -1.0, 0.3, 1.01], dtype=torch.float64)
    found = relax_smooth(
        Smooth(sources=(0,), shape=(6,), curve=curve), Bounds(low=low.unsqueeze(0), high=high.unsqueeze(0))
    )
    points = torch.lerp(low, high, torch.linspace(0, 1, 801, dtype=torch.float64).unsqueeze(1))
    middle, slopes = (low + high) / 2, torch.linspace(-1.2, 1.2, 2001, dtype=torch.float64)
    for line, constant, values, sign in (
        (found.below, found.floor, curve.function(points), 1.0),
        (found.above, found.shift, -curve.function(points), -1.0),
    ):
        best = torch.stack([(values - slope * (points - middle)).amin(0) for slope in slopes]).amax(0)
        reached = sign * (line * middle + constant)[0]
        spread = (curve.function(points).amax(0) - curve.function(points).amin(0)).clamp(min=1e-3)
        assert (reached <= best + 5e-3 * spread).all()
        apart = curve.bend * ((high - low) / supporting_lines.CELLS).square() / 4
        assert (reached >= best - 0.04 * spread - apart).all()


def test_over_many_periods_a_wave_lies_between_its_constants():
    low = torch.tensor([[-40.0, 0.0, 1.0]], dtype=torch.float64)
    high = torch.tensor([[60.0, 7.0, 1e6]], dtype=torch.float64)
    found = relax_smooth(Smooth(sources=(0,), shape=(3,), curve=curves.SINE), Bounds(low=low, high=high))
    assert not found.below[:, [0, 2]].any()
    assert not found.above[:, [0, 2]].any()
    middle = (low + high) / 2
    assert (found.below * middle + found.floor >= -1 - 1e-8).all()
    assert (found.above * middle + found.shift <= 1 + 1e-8).all()


def test_limits_that_are_no_numbers_give_no_lines():
    low = torch.tensor([[-torch.inf, torch.nan, -1.0, -1e300, 2.0]], dtype=torch.float64)
    high = torch.tensor([[0.0, 1.0, torch.inf, 1e300, 1.0]], dtype=torch.float64)
    found = relax_smooth(Smooth(sources=(0,), shape=(5,), curve=curves.GELU), Bounds(low=low, high=high))
    for part in (found.below, found.floor, found.above, found.shift):
        assert part.isnan().all()


@pytest.mark.parametrize("name", list(CURVES))
def test_limits_hold_what_is_sampled(name):
    low, high = drawn_limits(2000, 2)
    least, most = Smooth(sources=(0,), shape=(2000,), curve=CURVES[name]).limits(low, high)
    points = torch.lerp(low, high, torch.linspace(0, 1, 401, dtype=torch.float64).unsqueeze(1))
    values = CURVES[name].function(points)
    assert (least <= values.amin(0)).all()
    assert (most >= values.amax(0)).all()
    assert (most - least <= values.amax(0) - values.amin(0) + 5e-3).all()


def network(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        MODULES[name],
        nn.Flatten(),
        nn.Linear(75, 12),
        MODULES[name],
        nn.Linear(12, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )
    layers[1].running_var.uniform_(0.2, 2.0)
    return layers.eval()


@pytest.mark.parametrize("norm", ["linf:0.04", "l2:0.15", "l1:0.3"])
@pytest.mark.parametrize("name", list(MODULES))
def test_bounds_hold_what_is_sampled_and_are_ordered(name, norm):
    model = network(name)
    inputs = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    labels = model(inputs).argmax(1)
    kind, radius = norm.split(":")
    graph, region = read(model, inputs), Region.around(inputs, (0.0, 1.0), kind, float(radius))
    crown, interval = Crown().margins(graph, region, labels), Interval().margins(graph, region, labels)
    assert (crown.run >= interval.run).all()
    assert (crown.run > interval.run).any()
    threat = tb.Threat.parse(norm)
    ball = threat.perturbations.around(inputs, tb.Box(0.0, 1.0))
    found = interval_bounds(graph, region)[-1]
    rows = torch.arange(6)
    for seed in range(40):
        points = ball.start(Random(seed, rows).stream("test"), 0)
        logits = model(points).double()
        assert (logits >= found.low).all()
        assert (logits <= found.high).all()
        right = logits.gather(1, labels.unsqueeze(1))
        margins = right - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1, keepdim=True)
        assert (margins[:, 0] >= crown.run).all()


@pytest.mark.parametrize("method", ["crown", "alpha-crown", "branch-and-bound", "lipschitz"])
@pytest.mark.parametrize("name", ["sigmoid", "gelu", "silu"])
def test_no_attack_breaks_what_is_certified(name, method):
    model = network(name, 1)
    inputs = torch.rand(20, 1, 5, 5, generator=torch.Generator().manual_seed(4))
    labels, params = model(inputs).argmax(1), {"timeout": 0.5} if method == "branch-and-bound" else {}
    threat = "l2:0.05" if method == "lipschitz" else "linf:0.03"
    proof = tb.certify(method, model, inputs, labels, threat, box=(0, 1), **params)
    found = tb.attack("pgd", tb.wrap(model, box=(0, 1), classes=4), inputs, labels, threat, restarts=3)
    assert bool(proof.certified.any())
    assert not bool((proof.certified & found.success).any())


def test_absolute_values_are_read_exactly():
    class Absolute(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs):
            return self.layer((inputs - 0.5).abs())

    torch.manual_seed(0)
    model = Absolute().eval()
    inputs = torch.rand(5, 4)
    graph = read(model, inputs)
    torch.testing.assert_close(graph(inputs.double()), model(inputs).double(), rtol=1e-5, atol=1e-6)
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.2)
    bounds = interval_bounds(graph, region)[-1]
    for _ in range(50):
        points = (inputs + (torch.rand_like(inputs) * 2 - 1) * 0.2).clamp(0, 1)
        assert ((model(points) >= bounds.low) & (model(points) <= bounds.high)).all()


def test_a_kernel_that_overflows_far_out_is_believed_nowhere_near():
    """GELU in float32 gives an infinite number at 2.3e38 where many are computed together."""
    layer = nn.Linear(1, 16)
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    last = nn.Linear(16, 2)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1e-30], [-1e-30]]).expand(2, 16))
    model = nn.Sequential(layer, nn.GELU(), last).eval()
    inputs = torch.full((1, 1), 1.6e38)
    assert not model(torch.full((1, 1), 2.35e38)).isfinite().all()
    for method in ("interval", "crown", "alpha-crown", "lipschitz"):
        try:
            proof = tb.certify(method, model, inputs, model(inputs).argmax(1), "linf:0.7e38", box=(0.0, 3e38))
        except UnsupportedError:
            continue
        assert not bool(proof.certified.any()), method


REFUSED = [nn.ELU(0.5), nn.SELU(), nn.Softplus(0.1), nn.Softplus(1.0, 1000.0), nn.Mish(), nn.Softsign()]


@pytest.mark.parametrize("layer", REFUSED, ids=repr)
def test_curves_without_a_rule_are_refused_by_name(layer):
    with pytest.raises(UnsupportedError, match=rf"no proof: 1 \({type(layer).__name__}\)"):
        read(nn.Sequential(nn.Linear(3, 2), layer).eval(), torch.rand(2, 3))


def test_wide_smooth_steps_keep_the_limits_of_intervals(monkeypatch):
    """Every neuron of theirs would be asked about: the bound is looser, and holds."""
    model = network("gelu")
    inputs = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(3))
    labels = model(inputs).argmax(1)
    graph, region = read(model, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.04)
    refined = Crown().margins(graph, region, labels).run
    monkeypatch.setattr(relaxed_network, "WIDE", 0)
    wide = Crown().margins(graph, region, labels).run
    assert (Interval().margins(graph, region, labels).run <= wide).all()
    assert (wide < refined).any()
    assert (wide <= refined + 1e-9).all()
