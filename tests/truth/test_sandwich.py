"""Every attack against every certifier: no success inside a proven region, and success just outside a broken one."""

import functools

import pytest
import torch

import trustbound as tb
from trustbound.attacks import build, search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS
from trustbound.threat import Access, Misclassify, NormBall, Random

NUMBERS = {
    "square": {"steps": 150},
    "apgd": {"steps": 25},
    "apgd-t": {"steps": 15},
    "fmn": {"steps": 40},
    "hopskipjump": {"steps": 6},
}
#: Certifiers that no audit runs by itself: tried at so many times the radius that CROWN proves, on so many examples.
#: `make verify-all` finds their own radii, and tries every attack at these.
DEAR = {
    "alpha-crown": (1.002, 24, {}),
    "branch-and-bound": (1.01, 8, {"max_nodes": 60, "timeout": float("inf")}),
}
STRONG = ("apgd", "margin-pgd", "fmn")
#: The smallest change under l0, one value anywhere in the box, is more than is proven of this network.
ELSEWHERE = {"l0": "test_bounds_l0.py"}
PAIRS = [
    (certifier.name, attack.name, norm)
    for certifier in CERTIFIERS
    if certifier.deterministic and certifier.layers
    for attack in ATTACKS
    for norm in certifier.norms
    if norm in attack.norms
    and norm != "l0"
    and not attack.shared
    and (certifier.name not in DEAR or attack.name in STRONG)
]


@functools.cache
def network() -> tuple[tb.Model, torch.Tensor, torch.Tensor]:
    """A small residual-free CNN with batch norm, max pool and leaky ReLU, fitted to real digits."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3, padding=1),
        torch.nn.BatchNorm2d(6),
        torch.nn.LeakyReLU(0.1),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 24),
        torch.nn.ReLU(),
        torch.nn.Linear(24, 10),
    )
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=24)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(module(train.inputs[:600]), train.labels[:600])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tb.wrap(module.eval()), test.inputs, test.labels


@functools.cache
def proven(certifier: str, norm: str) -> torch.Tensor:
    model, inputs, labels = network()
    tolerance = NormBall(norm, 1.0).tolerance(model.box, inputs[0].numel())
    graph = read(model, inputs[:2])
    if certifier in DEAR:  # a size at which CROWN proves nothing, in place of a bisection
        factor, count, params = DEAR[certifier]
        radius = factor * proven("crown", norm)[:count]
        method, _ = resolve(certifier, **params)
        region = Region.around(inputs[:count], model.box, norm, radius + tolerance)
        held = method.margins(graph, region, labels[:count]).proven
        return torch.cat([radius * held, torch.zeros(len(inputs) - count, dtype=torch.float64)])
    method, _ = resolve(certifier)
    return certified_radius(method, graph, inputs, labels, model.box, norm, steps=7, tolerance=tolerance)


def probe_run(attack: str, norm: str, radius: torch.Tensor) -> torch.Tensor:
    model, inputs, labels = network()
    method = build(attack, **NUMBERS.get(attack, {}))
    with Oracle(model, examples=len(inputs), access=Access.GRADIENTS) as oracle:
        found = search(
            method,
            oracle,
            NormBall(norm, 1.0).around(inputs, model.box, radius=radius),
            Misclassify().bind(labels, 10),
            Random(0, torch.arange(len(inputs))),
        )
    return found.success


@pytest.mark.parametrize(("certifier", "attack", "norm"), PAIRS)
def test_no_attack_breaks_what_is_proven(certifier, attack, norm):
    radius = proven(certifier, norm)
    rows = radius > 0
    assert int(rows.sum()) >= (5 if certifier in DEAR else 10), "nothing proven: the test would be empty"
    assert not bool((probe_run(attack, norm, radius) & rows).any())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_same_attacks_break_a_bound_that_is_too_large(norm):
    radius = proven("crown", norm) * 8.0
    assert int((probe_run("apgd", norm, radius) & (radius > 0)).sum()) >= 10
