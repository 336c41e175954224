"""Intervals of the Jacobian: every gradient of the region lies inside, never looser than the product of norms."""

import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.methods.interval import interval_bounds
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.region import Region
from trustbound.certificates.sensitivity import jacobian
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.jacobian import jacobian_bounds
from trustbound.errors import InputError, UnsupportedError

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


class Residual(nn.Module):
    """A residual sum, parts side by side, two kinds of pools, a smooth activation, batch norm."""

    def __init__(self, activation):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), activation)
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.LeakyReLU(0.2))
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.last = nn.Linear(76, 3)

    def forward(self, inputs):
        hidden = self.first(inputs)
        hidden = self.pool(hidden - 0.5 * self.second(hidden))
        mean = nn.functional.avg_pool2d(inputs, 2)
        return self.last(torch.cat([hidden.flatten(1), mean.flatten(1), mean.flatten(1)[:, :3]], 1))


def network(activation):
    torch.manual_seed(2)
    model = Residual(activation).double()
    model.first[1].running_var.uniform_(0.5, 2.0)
    return model.eval(), torch.rand(4, 1, 6, 6, dtype=torch.float64)


def sampled(region, count):
    """Points of ball ∩ box, a share of them at its corners."""
    chance = torch.Generator().manual_seed(0)
    for turn in range(count):
        share = torch.rand(region.inputs.shape, generator=chance, dtype=torch.float64)
        share = share.round() if turn % 2 else share
        points = region.low + share * (region.high - region.low)
        if region.norm != "linf":
            away = points - region.inputs
            sizes = torch.linalg.vector_norm(away.flatten(1), 2 if region.norm == "l2" else 1, 1)
            scale = (region.radius / sizes).clamp(max=1.0)
            points = region.inputs + away * scale.reshape(-1, *[1] * (away.ndim - 1))
        yield points


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU(), nn.Tanh()])
def test_every_gradient_of_the_region_lies_between_the_limits(activation):
    model, inputs = network(activation)
    graph = read(model, inputs)
    for norm in ("linf", "l2", "l1"):
        for radius in (0.02, 0.5):
            examine(model, graph, inputs, norm, radius)


def examine(model, graph, inputs, norm, radius):
    region = Region.around(inputs, (0.0, 1.0), norm, radius)
    rows = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = jacobian_bounds(graph, region, interval_bounds(graph, region), rows)
    values, fall = torch.bmm(rows, model(inputs).unsqueeze(2)).squeeze(2), found.fall(region)
    for points in sampled(region, 12):
        points.requires_grad_()
        outputs = torch.bmm(rows, model(points).unsqueeze(2)).squeeze(2)
        assert (values - outputs <= fall + 1e-12).all()
        gradients = []
        for row in range(2):
            (gradient,) = torch.autograd.grad(outputs[:, row].sum(), points, retain_graph=True)
            assert (gradient >= found.low[:, row] - 1e-12).all()
            assert (gradient <= found.high[:, row] + 1e-12).all()
            assert (torch.linalg.vector_norm(gradient.flatten(1), DUAL[norm], 1) <= found.slope[:, row]).all()
            gradients.append(gradient.flatten(1))
        order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
        assert (torch.linalg.matrix_norm(torch.stack(gradients, 1), order) <= found.joint).all()
    product = torch.linalg.vector_norm(rows, DUAL[norm], 2) * gains(graph, norm)[-1]
    assert (found.slope <= product * (1 + 1e-9)).all()


def test_in_a_region_of_one_point_the_limits_are_the_gradient():
    model, inputs = network(nn.SiLU())
    graph = read(model, inputs)
    region = Region.around(inputs, (0.0, 1.0), "l2", 0.0)
    rows = torch.eye(3, dtype=torch.float64).expand(4, -1, -1)
    found = jacobian_bounds(graph, region, interval_bounds(graph, region), rows)
    truth = torch.stack([torch.func.jacrev(lambda point: model(point[None])[0])(point) for point in inputs]).detach()
    torch.testing.assert_close(found.low, truth, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.high, truth, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.joint, torch.linalg.matrix_norm(truth.flatten(2), 2), rtol=1e-5, atol=0)


def digits():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10))
    data = tb.load_data("digits", split="test", limit=40)
    return tb.wrap(model, box=(0.0, 1.0)), data.inputs, model(data.inputs).argmax(1)


@pytest.mark.parametrize("threat", ["linf:0.02", "l2:0.1"])
def test_the_certifier_proves_more_with_it_and_never_less(threat):
    model, inputs, labels = digits()
    plain = tb.certify("lipschitz", model, inputs, labels, threat)
    local = tb.certify("lipschitz", model, inputs, labels, threat, local=True)
    crown = tb.certify("crown", model, inputs, labels, threat)
    assert (local.margin >= plain.margin).all()
    assert (local.margin > plain.margin + 1e-4).sum() > 20
    # On such small regions hardly any ReLU changes, and both are nearly exact.
    assert (local.margin <= crown.margin + 0.05).all()
    pieces = tb.certify("lipschitz", model, inputs, labels, threat, local=True, memory=2**17)
    torch.testing.assert_close(pieces.margin, local.margin, rtol=0, atol=1e-9)
    found = tb.attack("pgd", model, inputs, labels, threat, steps=20)
    outputs = model(found.adversarial).double()
    others = outputs.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)
    margins = outputs.gather(1, labels.unsqueeze(1)).squeeze(1) - others
    assert (margins.detach() >= local.margin - local.slack).all()


def test_a_wrong_derivative_would_be_seen(monkeypatch):
    """Intervals that forget one side of zero exclude gradients that sampling meets."""
    model, inputs = network(nn.ReLU())
    graph = read(model, inputs)
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.5)
    rows = torch.eye(3, dtype=torch.float64).expand(4, -1, -1)
    right = jacobian._derivative
    monkeypatch.setattr(jacobian, "_derivative", lambda step, operand: (right(step, operand)[0],) * 2)
    found = jacobian_bounds(graph, region, interval_bounds(graph, region), rows)
    worst = 0.0
    for points in sampled(region, 10):
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(model(points)[:, 0].sum(), points)
        worst = max(worst, float((gradient - found.high[:, 0]).max()))
    assert worst > 1e-3


def test_local_constants_are_below_the_product_and_above_what_is_attained():
    model, inputs, _ = digits()
    found = tb.lipschitz(model, inputs, "l2:0.2", steps=10)
    assert found.local.shape == (40,)
    assert (found.local <= found.upper["l2"]).all()
    assert (found.local < 0.9 * found.upper["l2"]).any()
    jacobians = torch.vmap(torch.func.jacrev(lambda point: model(point[None])[0]))(inputs).detach()
    assert (found.local >= torch.linalg.matrix_norm(jacobians.flatten(2).double(), 2) * (1 - 1e-6)).all()
    assert "inside l2:0.2 of the inputs at most" in repr(found)
    wider = tb.lipschitz(model, inputs, "l2:1", steps=1).local
    assert (wider >= found.local - 1e-9).all()
    with pytest.raises(UnsupportedError, match="local Lipschitz constants exist in the norms"):
        tb.lipschitz(model, inputs, "l0:3")
    with pytest.raises(InputError, match="a threat needs `inputs`"):
        tb.lipschitz(model, (1, 8, 8), "l2:0.2")
    with pytest.raises(InputError, match="`local` must be"):
        Lipschitz(local=1)
