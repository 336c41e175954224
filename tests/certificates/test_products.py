"""Products of two values that depend on the input: limits, planes, the way back, and what rests on them."""

import itertools

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.backward import Coefficients
from trustbound.certificates.methods.bilinear import relax_product, through_product
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Bounds, Interval, interval_bounds
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError

FORMS = {
    "numbers": (Product(sources=(0, 1), shape=(3, 2)), (3, 2), (3, 2)),
    "broadcast": (Product(sources=(0, 1), shape=(3, 2)), (3, 2), (3, 1)),
    "square": (Product(sources=(0, 0), shape=(3, 2)), (3, 2), None),
    "matrices": (Product(sources=(0, 1), shape=(2, 3), matrix=True, inner=2), (2, 2), (2, 3)),
    "heads": (Product(sources=(0, 1), shape=(2, 1, 2), matrix=True, inner=2), (2, 1, 2), (2, 2, 2)),
}


def drawn(shape: tuple[int, ...] | None, seed: int, count: int = 24) -> Bounds | None:
    """Limits of all widths and signs, points among them."""
    if shape is None:
        return None
    chance = torch.Generator().manual_seed(seed)
    middle = torch.randn(count, *shape, generator=chance, dtype=torch.float64) * 2
    width = 10 ** (torch.rand(count, *shape, generator=chance, dtype=torch.float64) * 8 - 7)
    width[: count // 8] = 0.0
    return Bounds(low=middle - width, high=middle + width)


def corners(bounds: Bounds) -> torch.Tensor:
    """All corners of the limits of each example, (2^n, B, *F)."""
    low, high = bounds.low.flatten(1), bounds.high.flatten(1)
    signs = torch.tensor(list(itertools.product((False, True), repeat=low.shape[1])))
    return torch.where(signs.unsqueeze(1), high, low).unflatten(2, bounds.low.shape[1:])


def reached(step: Product, first: Bounds, second: Bounds | None) -> tuple[torch.Tensor, ...]:
    """Operands and products at every pair of corners, and for a square at points between them."""
    if second is None:
        shares = torch.linspace(0, 1, 101, dtype=torch.float64).reshape(-1, *[1] * first.low.ndim)
        x = torch.lerp(first.low, first.high, shares)
        return x, x, step.apply(x, x)
    x, y = corners(first), corners(second)
    count = len(y)
    x, y = x.repeat_interleave(count, 0), y.repeat(len(x), *[1] * (y.ndim - 1))
    return x, y, step.apply(x, y)


@pytest.mark.parametrize("name", list(FORMS))
def test_limits_are_those_of_the_corners(name):
    step, one, other = FORMS[name]
    first, second = drawn(one, 1), drawn(other, 2)
    _, _, products = reached(step, first, second)
    ends = (first.low, first.high) * 2 if second is None else (first.low, first.high, second.low, second.high)
    least, most = step.limits(*ends)
    assert (least <= products.amin(0)).all()
    assert (most >= products.amax(0)).all()
    slack = 1e-12 * (1 + products.abs().amax(0)) + (0.0 if second is not None else 1e-3 * products.abs().amax(0))
    assert (least >= products.amin(0) - slack).all()
    assert (most <= products.amax(0) + slack).all()


def excess(name: str, *, planted: bool = False) -> float:
    """By how much the planes are on the wrong side at a corner, at most: a bilinear form is farthest there."""
    step, one, other = FORMS[name]
    first, second = drawn(one, 3), drawn(other, 4)
    found = relax_product(step, first, first if second is None else second)
    x, y, products = reached(step, first, second)
    if planted:  # the remainder is forgotten
        middle = (found.floor + found.shift) / 2
        found = type(found)(left=found.left, right=found.right, floor=middle, shift=middle)
    plane = step.apply(found.left, y) + step.apply(x, found.right)
    return float(torch.maximum(plane + found.floor - products, products - plane - found.shift).max())


@pytest.mark.parametrize("name", list(FORMS))
def test_planes_are_on_their_side_of_every_corner(name):
    assert excess(name) <= 0.0
    assert excess(name, planted=True) > 1e-3


@pytest.mark.parametrize("name", list(FORMS))
def test_the_way_back_is_the_gradient_of_the_planes(name):
    step, one, other = FORMS[name]
    first, second = drawn(one, 5, 4), drawn(other, 6, 4)
    planes = relax_product(step, first, first if second is None else second)
    rows = torch.randn(3, 2, *step.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    owner = torch.tensor([3, 0, 0])
    constant, back = through_product(step, Coefficients(owner=owner, coefficients=rows), planes)
    sides = [first.low, first.low if second is None else second.low]
    for group, row in itertools.product(range(3), range(2)):
        x, y = (side[:1].clone().requires_grad_() for side in sides)
        own = slice(int(owner[group]), int(owner[group]) + 1)
        linear = step.apply(planes.left[own], y) + step.apply(x, planes.right[own])
        given = rows[group, row]
        wanted = torch.autograd.grad((given * linear).sum(), (x, y))
        for part, whole in zip(back, wanted, strict=True):
            torch.testing.assert_close(part.coefficients[group, row], whole[0])
        shift = given.clamp(min=0) * planes.floor[own] + given.clamp(max=0) * planes.shift[own]
        torch.testing.assert_close(constant[group, row], shift.sum())


class Gated(nn.Module):
    """Gates, squares, a bilinear form and a product of matrices, on eight numbers."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(12, 3)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden = hidden * self.gate(inputs).sigmoid() + hidden.square() - 0.1 * hidden**2
        plane = hidden.reshape(-1, 4, 2)
        mixed = plane.mT @ plane
        stretched = plane * plane.mean(-1, keepdim=True)
        return self.last(torch.cat([mixed.flatten(1), stretched.flatten(1)], 1) * 0.2)


def gated(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(3)
    return Gated().eval().to(dtype), torch.rand(5, 8, generator=torch.Generator().manual_seed(2)).to(dtype)


def test_what_is_read_is_what_is_computed():
    model, inputs = gated(torch.float64)
    graph = read(model, inputs)
    torch.testing.assert_close(graph(inputs), model(inputs), rtol=1e-12, atol=1e-12)
    assert sum(isinstance(step, Product) for step in graph.operations) == 5
    assert sum(isinstance(step, Product) and step.square for step in graph.operations) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_100_000_points_of_a_region_lie_within_the_bounds_in_every_precision(dtype):
    model, inputs = gated(dtype)
    labels = model(inputs).argmax(1)
    graph, region = read(model, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.05)
    found = interval_bounds(graph, region)[-1]
    interval, crown = Interval().margins(graph, region, labels), Crown().margins(graph, region, labels)
    assert (crown.run >= interval.run).all()
    assert (crown.run > interval.run).any()
    chance = torch.Generator().manual_seed(5)
    for _ in range(20):  # of 1,000 points for each of five inputs
        share = torch.rand(1000, *region.low.shape, generator=chance, dtype=torch.float64)
        share = torch.where(torch.rand(share.shape, generator=chance) < 0.5, share.round(), share)
        points = torch.lerp(region.low, region.high, share).to(dtype)
        inside = ((points >= region.low) & (points <= region.high)).all(2)
        logits = model(points.flatten(0, 1)).double().unflatten(0, inside.shape)
        assert ((logits >= found.low) & (logits <= found.high))[inside].all()
        right = logits.gather(2, labels.expand(1000, -1).unsqueeze(2))
        margins = right - logits.scatter(2, labels.expand(1000, -1).unsqueeze(2), -torch.inf).amax(2, keepdim=True)
        assert (margins[..., 0] >= crown.run)[inside].all()


@pytest.mark.parametrize(("method", "threat"), [("crown", "linf:0.05"), ("branch-and-bound", "l1:0.2")])
def test_no_attack_breaks_what_is_certified(method, threat):
    model, _ = gated()
    inputs = torch.rand(30, 8, generator=torch.Generator().manual_seed(9))
    labels, params = model(inputs).argmax(1), {"timeout": 0.2} if method == "branch-and-bound" else {}
    proof = tb.certify(method, model, inputs, labels, threat, box=(0, 1), **params)
    found = tb.attack("pgd", tb.wrap(model, box=(0, 1), classes=3), inputs, labels, threat, restarts=2)
    assert bool(proof.certified.any())
    assert not bool((proof.certified & found.success).any())


def test_a_hard_swish_that_overflows_before_it_divides_proves_nothing():
    """Its kernel multiplies by six at most, and divides then: beyond a sixth of the range it gives infinity."""
    layer, last = nn.Linear(1, 16, bias=False), nn.Linear(16, 2)
    nn.init.ones_(layer.weight)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[1e-30], [-1e-30]]).expand(2, 16))
    model = nn.Sequential(layer, nn.Hardswish(), last).eval()
    inputs = torch.full((1, 1), 5e37)
    assert model(inputs).isfinite().all()
    for method in ("interval", "crown"):
        try:
            proof = tb.certify(method, model, inputs, model(inputs).argmax(1), "linf:1e37", box=(0.0, 3e38))
        except UnsupportedError:
            continue
        assert not bool(proof.certified.any()), method


def test_lipschitz_constants_of_products_are_refused_by_name():
    model, inputs = gated()
    with pytest.raises(UnsupportedError, match="no Lipschitz constant: forward"):
        tb.certify("lipschitz", model, inputs, model(inputs).argmax(1), "l2:0.01", box=(0, 1))


class Odd(nn.Module):
    """A forward that ends in one product of another form."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, inputs):
        return self.form(inputs).flatten(1)


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x / (1 + x),
        lambda x: x.reshape(-1, 2, 4) @ x.reshape(-1, 1, 4, 2),
        lambda x: x.reshape(-1, 2, 4) * x[:, :4],
        lambda x: x @ x.T,
    ],
)
def test_products_without_a_rule_are_refused(form):
    with pytest.raises(UnsupportedError, match="no proof"):
        read(Odd(form), torch.rand(4, 8))
