"""So many values may change, each anywhere in the box: bounds against every support, every corner and every attack."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import build, search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS
from trustbound.metrics.margin import margin_rows
from trustbound.model.exact import linear_classifier
from trustbound.record.box import Box
from trustbound.threat import Misclassify, NormBall, Random

SERVING = [row.name for row in CERTIFIERS if "l0" in row.norms]
PARAMS = {"branch-and-bound": {"max_nodes": 20, "timeout": float("inf")}}


def certifier(name):
    return resolve(name, **PARAMS.get(name, {}))[0]


def supports(features, count):
    return itertools.combinations(range(features), count)


def corners(centre, low, high, count):
    """Every point that puts `count` values of a flat centre (N,) at a limit and leaves the others: (P, N)."""
    points = []
    for chosen in supports(len(centre), count):
        for ends in itertools.product((0, 1), repeat=count):
            point = centre.clone()
            for place, end in zip(chosen, ends, strict=True):
                point[place] = (low, high)[end][place]
            points.append(point)
    return torch.stack(points)


def case(seed, features=6):
    """Inputs in a box of its own for every value, some at its limits, and rows with zeros."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(features, generator=generator).double() - 1.0
    high = low + 0.1 + 2 * torch.rand(features, generator=generator).double()
    share = torch.rand(2, features, generator=generator).double().mul(1.6).sub(0.3).clamp(0, 1)
    rows = torch.randn(2, 3, features, generator=generator).double()
    rows[0, 0, 0] = 0.0
    return (low + share * (high - low)).clamp(low, high), Box(low.numpy(), high.numpy()), rows


@pytest.mark.parametrize("count", range(8))
def test_the_least_value_is_that_over_every_support(count):
    for seed in range(3):
        inputs, box, rows = case(seed)
        region = Region.around(inputs, box, "l0", count)
        found = region.least(rows)
        for i in range(2):
            points = corners(inputs[i], region.low[i], region.high[i], min(count, 6))
            truth = (rows[i] @ points.T).amin(1)
            assert bool((found[i] <= truth).all())
            torch.testing.assert_close(found[i], truth, rtol=0, atol=1e-12)
            for k in range(3):  # and it is taken where it is said to be, in the set
                at = region.select(slice(i, i + 1)).lowest(rows[i, k : k + 1])
                torch.testing.assert_close((rows[i, k] * at).sum(), truth[k], rtol=0, atol=1e-12)
                assert int((at != inputs[i]).sum()) <= count


def test_sizes_of_examples_are_their_own_and_round_down():
    inputs, box, rows = case(7)
    both = Region.around(inputs, box, "l0", torch.tensor([1.0, 3.9])).least(rows)
    for i, count in enumerate((1, 3)):
        assert torch.equal(both[i], Region.around(inputs[i : i + 1], box, "l0", count).least(rows[i : i + 1])[0])
    whole = Region.around(inputs, box, "l0", float("inf")).least(rows)
    torch.testing.assert_close(whole, Region.around(inputs, box, "linf", float("inf")).least(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_values_that_a_search_rounds_are_not_changes(count):
    """A search in float32 holds other numbers than float64 inputs: each value may be either, without being counted."""
    inputs, box, rows = case(3)
    held = inputs.float().double().clamp(torch.as_tensor(box.low), torch.as_tensor(box.high))
    assert bool((held != inputs).any(1).all())
    found = Region.around(inputs, box, "l0", count, torch.float32).least(rows)
    apart = 0.0
    for i in range(2):
        region = Region.around(inputs, box, "l0", 6)
        points = corners(held[i], region.low[i], region.high[i], count)
        assert bool((found[i] <= (rows[i] @ points.T).amin(1)).all())
        apart = max(apart, float((found[i] - (rows[i] @ points.T).amin(1)).abs().max()))
    assert apart < 1e-6
    plain = Region.around(inputs, box, "l0", count).least(rows)
    assert bool((found < plain).any())


def least_along_one(network, centre, row):
    """The least of row · network over points that differ in one value: linear between the signs' changes, so exact."""
    first, points = network[0], []
    for place in range(len(centre)):
        at = first.bias + first.weight @ centre - first.weight[:, place] * centre[place]
        ends = torch.cat([(-at / first.weight[:, place]).clamp(0, 1), torch.tensor([0.0, 1.0]).double()])
        line = centre.repeat(len(ends), 1)
        line[:, place] = ends
        points.append(line)
    return float((network(torch.cat(points)) @ row).min())


@functools.cache
def solved():
    """Networks with examples, their graphs and the least margins over all points that differ in one value."""
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
        inputs = torch.rand(4, 5)
        labels, exact = network(inputs).argmax(1), copy.deepcopy(network).double()
        truth = [
            min(least_along_one(exact, inputs[i].double(), row) for row in rows)
            for i, rows in enumerate(margin_rows(labels, 3))
        ]
        found.append((read(network, inputs), inputs, labels, torch.tensor(truth, dtype=torch.float64)))
    return found


@pytest.mark.parametrize("name", SERVING)
def test_bounds_of_networks_are_below_the_minimum_over_every_support(name):
    gaps = []
    for graph, inputs, labels, truth in solved():
        found = certifier(name).margins(graph, Region.around(inputs, (0.0, 1.0), "l0", 1), labels)
        assert bool((found.run <= found.value).all())
        assert bool((found.value <= truth + 1e-12).all())
        gaps += (truth - found.run).tolist()
    # Limits alone lose much; a bound that is merely very low would pass everywhere.
    assert np.median(gaps) < (0.6 if name == "interval" else 0.12)


def test_every_changed_input_stays_within_the_limits_of_convolutions():
    """Windows of feature maps see some of the values alone: those limits hold, too."""
    torch.manual_seed(0)
    maps = (nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())
    network = nn.Sequential(*maps, nn.Flatten(), nn.Linear(36, 3))
    inputs = torch.rand(2, 2, 7, 7)
    graph = read(network, inputs)
    for count in (1, 5):
        region = Region.around(inputs, (0.0, 1.0), "l0", count)
        limits = Crown().limits(graph, region).bounds
        for i in range(2):
            points = inputs[i].double().flatten().repeat(300, 1)
            for point in points:
                point[torch.randperm(98)[:count]] = torch.rand(count, dtype=torch.float64).round()
            values = [points.reshape(-1, 2, 7, 7)]
            for step, known in zip(graph.operations[1:], limits[1:], strict=True):
                values.append(step.apply(*(values[source] for source in step.sources)))
                assert bool((values[-1] >= known.low[i]).all())
                assert bool((values[-1] <= known.high[i]).all())
    box = Region.around(inputs, (0.0, 1.0), "linf", float("inf"))
    rows = margin_rows(torch.tensor([0, 1]), 3)
    for method in (Interval(), Crown()):
        one, all_ = (method.bounds(graph, at, rows).run for at in (Region.around(inputs, (0.0, 1.0), "l0", 1), box))
        assert bool((one > all_ + 0.1).all())


def test_radii_are_whole_numbers_and_those_of_a_linear_classifier():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=generator)
    exact, labels = linear_classifier(weight), torch.arange(21) % 3
    inputs = torch.lerp(torch.rand(21, 8, generator=generator), (weight[labels] > 0).float(), 0.8)
    radius, graph = exact.exact_radius(inputs, labels, "l0", inside_box=True), read(exact.model, inputs)
    assert len(radius.unique()) > 2
    for cap in (float("inf"), 2.5):
        found = certified_radius(Crown(), graph, inputs, labels, (0.0, 1.0), "l0", cap=cap)
        assert torch.equal(found, (radius - 1).clamp(min=0, max=min(8, int(min(cap, 8)))))


@functools.cache
def digits():
    """Digits and a small network with little weight on each value: something is proven of one or two."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=12)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, weight_decay=2e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(train.inputs), train.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tb.wrap(module.eval()), test.inputs, test.labels


def test_no_attack_breaks_what_is_proven_and_tighter_bounds_prove_more():
    model, inputs, labels = digits()
    graph = read(model, inputs)
    less, most = (
        certified_radius(method, graph, inputs, labels, model.box, "l0", steps=3) for method in (Interval(), Crown())
    )
    assert bool((most >= less).all())
    assert bool((most > less).any())
    assert set(most.tolist()) > {1.0, 2.0}
    held = most > 0
    for row in ATTACKS:
        if "l0" in row.norms and not row.shared:
            with Oracle(model, examples=int(held.sum())) as oracle:
                ball = NormBall("l0", 1.0).around(inputs[held], model.box, radius=most[held])
                goal, random = Misclassify().bind(labels[held], 10), Random(0, torch.arange(int(held.sum())))
                assert not bool(search(build(row.name), oracle, ball, goal, random).success.any()), row.name
    # The same search breaks what is larger.
    beyond = tb.attack("pgd", model, inputs, labels, "l0:20", steps=20)
    assert bool(beyond.success.all())


def test_certify_counts_values_and_not_pixels():
    """One pixel of three channels is three values: a change of one alone is what l0:1 allows."""
    model = tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False)), box=(0.0, 1.0))
    with torch.no_grad():
        model.module[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
    inputs, labels = torch.full((1, 3, 1, 1), 0.75), torch.tensor([0])
    for count, held in ((1, True), (2, True), (3, False)):
        found = tb.certify("crown", model, inputs, labels, f"l0:{count}")
        assert bool(found.certified) is held
        assert float(found.margin) == pytest.approx(2.25 - 0.75 * count, abs=1e-9)
    few = tb.certify(
        "crown", model, inputs.expand(2, -1, -1, -1), labels.expand(2), "l0:1", sizes=torch.tensor([2.0, 3.0])
    )
    assert few.certified.tolist() == [True, False]
