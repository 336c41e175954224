"""A small vision transformer that has seen the digits is proven end to end, and no attack breaks what is."""

import pytest
import torch

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.graph.normalisation import Softmax
from trustbound.certificates.graph.products import Product
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError
from trustbound.model import build


@pytest.fixture(scope="module")
def transformer():
    """The network and digits that it reads rightly."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"patch": 4, "dim": 12, "depth": 1, "heads": 2}
        module = build("vit-small", input_shape=[1, 8, 8], classes=10, activation="relu", **sizes)
        train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=40)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for step in range(80):
            rows = torch.arange(128) * (step + 7) % len(train.labels)
            loss = torch.nn.functional.cross_entropy(module(train.inputs[rows]), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.eval().requires_grad_(False)
    right = module(test.inputs).argmax(1) == test.labels
    assert int(right.sum()) > 25
    return module, test.inputs[right], test.labels[right]


@pytest.mark.parametrize(
    ("method", "threat", "count"),
    [("crown", "linf:0.01", 12), ("crown", "l2:0.02", 6), ("alpha-crown", "linf:0.01", 2), ("interval", "linf:0", 12)],
)
def test_no_attack_breaks_what_is_certified(transformer, method, threat, count):
    module, inputs, labels = transformer
    inputs, labels = inputs[:count], labels[:count]
    proof = tb.certify(method, module, inputs, labels, threat, box=(0, 1))
    found = tb.attack("pgd", tb.wrap(module, box=(0, 1), classes=10), inputs, labels, threat, restarts=2)
    assert int(proof.certified.sum()) > count // 2
    assert not bool((proof.certified & found.success).any())


def test_points_of_the_region_are_above_the_bounds(transformer):
    module, inputs, labels = transformer
    inputs, labels = inputs[:6], labels[:6]
    graph, region = read(module, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.02)
    assert {type(step) for step in graph.operations} >= {Product, Softmax}
    crown, interval = Crown().margins(graph, region, labels), Interval().margins(graph, region, labels)
    assert (crown.run > interval.run).all()
    chance = torch.Generator().manual_seed(0)
    for _ in range(30):
        share = torch.rand(inputs.shape, generator=chance, dtype=torch.float64)
        share = torch.where(torch.rand(share.shape, generator=chance) < 0.7, share.round(), share)
        points = torch.lerp(region.low, region.high, share).float()
        inside = ((points >= region.low) & (points <= region.high)).flatten(1).all(1)
        logits = module(points).double()
        right = logits.gather(1, labels.unsqueeze(1))
        margins = right - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1, keepdim=True)
        assert (margins[:, 0] >= crown.run)[inside].all()


def test_its_lipschitz_constant_is_refused_by_the_name_of_the_layer(transformer):
    module, inputs, labels = transformer
    with pytest.raises(UnsupportedError, match=r"no Lipschitz constant: blocks\.0"):
        tb.certify("lipschitz", module, inputs, labels, "l2:0.01", box=(0, 1))
