"""α-CROWN against what shares no code with it: dense matrices at fixed slopes, the linear programme of triangles."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from tests.truth.test_bounds_reference import CASES, dense_layers, inside
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.graph.operations import Activation
from trustbound.certificates.methods import slopes as slopes_module
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.slopes import Ascent, optimised_slopes, sound_slopes
from trustbound.certificates.region import Region
from trustbound.certificates.specification import LowerBound
from trustbound.errors import InputError
from trustbound.metrics.margin import margin_rows

RADII = {"linf": 0.1, "l2": 0.4, "l1": 0.9}


def activations(graph):
    return [index for index, step in enumerate(graph.operations) if isinstance(step, Activation)]


def at_fixed_slopes(layers, limits, slopes, multipliers, start, rows):
    """Go back through dense layers with the lines that are given: one set of lower slopes and multipliers a row."""
    rows, constant, relu = rows.copy(), np.zeros(len(rows)), len(limits) - 1
    for layer in reversed(layers):
        if isinstance(layer, tuple):
            constant, rows = constant + rows @ layer[1], rows @ layer[0]
            continue
        (below, above), under, added = limits[relu], slopes[relu], multipliers[relu]
        crossing = (below < 0) & (above > 0)
        flat = np.where(below >= 0, 1.0, layer)
        chord = np.where(crossing, (above - layer * below) / np.where(crossing, above - below, 1.0), flat)
        constant = constant + np.where(rows < 0, rows, 0.0) @ np.where(crossing, above - chord * above, 0.0)
        rows = rows * np.where(rows > 0, np.where(crossing, under, flat), chord) + added
        relu -= 1
    return inside(rows, *start) + constant


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("name", list(CASES))
def test_bounds_at_fixed_slopes_and_multipliers_equal_the_dense_reference(name, norm):
    shape, network = CASES[name]
    torch.manual_seed(3)
    inputs = torch.rand(2, *shape)
    graph = read(network.float(), inputs).without_rounding()
    layers = dense_layers(network, shape)
    network.float()
    region = Region.around(inputs, (0.0, 1.0), norm, RADII[norm])
    rows = margin_rows(torch.arange(2) % graph.classes, graph.classes)
    relaxed = Crown().limits(graph, region)
    places = activations(graph)
    count = rows.shape[1]
    chosen, added = {}, {}
    for index in places:
        step, limits = graph.operations[index], relaxed.bounds[graph.operations[index].sources[0]]
        drawn = step.slope + (1 - step.slope) * torch.rand(2, count, *step.shape, dtype=torch.float64)
        crossing = ((limits.low < 0) & (limits.high > 0)).unsqueeze(1)
        chosen[index] = torch.where(crossing, drawn, relaxed.relaxations[index].below.unsqueeze(1))
        added[index] = torch.where(crossing, torch.randn(drawn.shape, dtype=torch.float64), 0.0)
    assert any(bool((part != 0).any()) for part in added.values())
    given = Coefficients(owner=torch.arange(2), coefficients=rows)
    found = propagate_backward(relaxed, len(graph.operations) - 1, given, slopes=chosen, multipliers=added)
    for i in range(2):
        point = [t[i].flatten().numpy() for t in (region.inputs, region.low, region.high)]
        limits = [
            tuple(
                getattr(relaxed.bounds[graph.operations[index].sources[0]], side)[i].flatten().numpy()
                for side in ("low", "high")
            )
            for index in places
        ]
        picked = [[part[index][i].flatten(1).numpy() for index in places] for part in (chosen, added)]
        wanted = at_fixed_slopes(layers, limits, *picked, (*point, norm, RADII[norm]), rows[i].numpy())
        np.testing.assert_allclose(found.value[i].numpy(), wanted, atol=1e-9, rtol=1e-9)


def triangle_programme(network, relaxed, row):
    """Minimise row · network over the triangles that the limits leave of every ReLU: the best of all slopes."""
    weights = [
        (m.weight.detach().double().numpy(), m.bias.detach().double().numpy())
        for m in network
        if isinstance(m, nn.Linear)
    ]
    limits = [relaxed.bounds[relaxed.graph.operations[index].sources[0]] for index in activations(relaxed.graph)]
    low, high = relaxed.region.low[0].numpy(), relaxed.region.high[0].numpy()
    sizes = [len(low), *itertools.chain.from_iterable((len(b), len(b)) for _, b in weights[:-1])]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    equal, less, ends, tops, bounds = [], [], [], [], list(zip(low, high, strict=True))
    for k, ((w, b), found) in enumerate(zip(weights[:-1], limits, strict=True)):
        before, z, h = starts[2 * k], starts[2 * k + 1], starts[2 * k + 2]
        below, above = found.low[0].numpy(), found.high[0].numpy()
        for j in range(len(b)):
            line = np.zeros(starts[-1])
            line[before : before + w.shape[1]], line[z + j] = w[j], -1.0
            equal.append(line)
            ends.append(-b[j])
            line = np.zeros(starts[-1])
            if below[j] >= 0 or above[j] <= 0:
                line[h + j], line[z + j] = 1.0, -1.0 if below[j] >= 0 else 0.0
                equal.append(line)
                ends.append(0.0)
                continue
            line[z + j], line[h + j] = 1.0, -1.0  # h ≥ z
            less.append(line)
            tops.append(0.0)
            chord = above[j] / (above[j] - below[j])
            line = np.zeros(starts[-1])
            line[h + j], line[z + j] = 1.0, -chord
            less.append(line)
            tops.append(-chord * below[j])
        bounds += [(None, None)] * len(b) + [(0.0, None)] * len(b)  # the limits of z are no part of what slopes see
    w, b = weights[-1]
    cost = np.zeros(starts[-1])
    cost[starts[-2] :] = row @ w
    free = {"A_ub": np.array(less), "b_ub": tops} if less else {}
    return linprog(cost, A_eq=np.array(equal), b_eq=ends, bounds=bounds, **free).fun + row @ b


@pytest.mark.parametrize("seed", range(4))
def test_the_best_slopes_solve_the_linear_programme_of_triangles(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 14), nn.ReLU(), nn.Linear(14, 3))
    inputs = torch.rand(1, 6)
    graph = read(network, inputs).without_rounding()
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.6)
    relaxed, rows = Crown().limits(graph, region), margin_rows(torch.tensor([seed % 3]), 3)
    nothing = torch.full((1, 2), -torch.inf, dtype=torch.float64)
    everything = torch.ones(1, 2, dtype=torch.bool)
    found = AlphaCrown(steps=150).optimise(relaxed, rows, LowerBound(value=nothing, run=nothing), everything, False)
    crown = propagate_backward(
        relaxed, len(graph.operations) - 1, Coefficients(owner=torch.tensor([0]), coefficients=rows)
    )
    for k in range(2):
        truth = triangle_programme(network, relaxed, rows[0, k].numpy())
        assert float(found.value[0, k]) <= truth + 1e-7
        gap = truth - float(crown.value[0, k])
        assert float(found.value[0, k]) >= truth - 1e-4 - 0.03 * gap
    assert float((found.value - crown.value).amax()) > 1e-3


@pytest.mark.parametrize("norm", list(RADII))
@pytest.mark.parametrize("name", list(CASES))
def test_returned_bounds_are_ordered(name, norm):
    shape, network = CASES[name]
    torch.manual_seed(5)
    inputs = torch.rand(3, *shape)
    graph = read(network, inputs)
    region = Region.around(inputs, (0.0, 1.0), norm, RADII[norm])
    labels = torch.arange(3) % graph.classes
    rows = margin_rows(labels, graph.classes)
    for ask in (lambda c: c.bounds(graph, region, rows), lambda c: c.margins(graph, region, labels)):
        interval, crown, none, alpha = (
            ask(certifier) for certifier in (Interval(), Crown(), AlphaCrown(limit_steps=0), AlphaCrown())
        )
        for worse, better in ((interval, crown), (crown, none), (crown, alpha)):
            assert (worse.run <= better.run).all()
            assert (worse.value <= better.value).all()
        assert (alpha.value > crown.value + 1e-6).any()


def test_memory_cuts_the_work_and_not_the_bound():
    shape, network = CASES["convolution"]
    torch.manual_seed(6)
    inputs = torch.rand(5, *shape)
    graph, region = read(network, inputs), Region.around(inputs, (0.0, 1.0), "linf", 0.05)
    rows = margin_rows(torch.arange(5), 5)
    whole, cut = (AlphaCrown(memory=memory).bounds(graph, region, rows).run for memory in (2**27, 2**20))
    torch.testing.assert_close(whole, cut, atol=1e-4, rtol=0)


def test_an_example_that_crown_proves_is_left_alone(monkeypatch):
    shape, network = CASES["dense"]
    inputs = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    labels = network(inputs).argmax(1)
    climbed = []
    kept = AlphaCrown.limits
    monkeypatch.setattr(
        AlphaCrown, "limits", lambda self, graph, region: climbed.append(len(region)) or kept(self, graph, region)
    )
    assert certify("alpha-crown", network, inputs, labels, "linf:1e-4", box=(0.0, 1.0)).certified.all()
    assert not climbed
    certify("alpha-crown", network, inputs, labels, "linf:0.5", box=(0.0, 1.0), steps=2)
    assert climbed == [4]


def test_rows_that_reached_their_goal_stop_and_the_best_iterate_is_kept():
    shape, network = CASES["dense"]
    torch.manual_seed(8)
    inputs = torch.rand(6, *shape)
    graph = read(network, inputs).without_rounding()
    relaxed = Crown().limits(graph, Region.around(inputs, (0.0, 1.0), "linf", 0.1))
    rows = Coefficients(
        owner=torch.arange(6), coefficients=margin_rows(torch.zeros(6, dtype=torch.long), graph.classes)
    )
    last = len(graph.operations) - 1
    crown = propagate_backward(relaxed, last, rows).value
    # A step that leaps to the ends of the slopes finds worse ones: the best so far must survive it.
    wild = optimised_slopes(
        relaxed, relaxed.single(), last, rows, Ascent(steps=3, step_size=50.0), torch.tensor(torch.inf)
    )
    assert (propagate_backward(relaxed, last, rows, slopes=wild).value >= crown - 1e-5).all()
    goal = torch.full((6, 1), torch.inf)
    goal[:4] = -torch.inf
    some = optimised_slopes(relaxed, relaxed.single(), last, rows, Ascent(steps=5, step_size=0.5), goal)
    alone = optimised_slopes(
        relaxed,
        relaxed.single(),
        last,
        rows.select(torch.tensor([4, 5])),
        Ascent(steps=5, step_size=0.5),
        torch.tensor(torch.inf),
    )
    for index in activations(graph):
        torch.testing.assert_close(some[index][4:], alone[index], atol=1e-5, rtol=0)
        start = relaxed.relaxations[index].below[:4].unsqueeze(1)
        torch.testing.assert_close(some[index][:4], start.expand_as(some[index][:4]))


def test_no_slope_that_cuts_into_the_activation_survives():
    shape, network = CASES["leaky"]
    inputs = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    graph = read(network, inputs)
    relaxed = Crown().limits(graph, Region.around(inputs, (0.0, 1.0), "linf", 0.2))
    for index in activations(graph):
        step, lines = graph.operations[index], relaxed.relaxations[index]
        rows = Coefficients(owner=torch.arange(2), coefficients=torch.ones(2, 3, *step.shape, dtype=torch.float64))
        for given in (-2.0, 0.0, 0.5, 3.0):
            found = sound_slopes(relaxed, index, torch.full((2, 3, *step.shape), given), rows)
            stable = (lines.below == lines.above).unsqueeze(1).expand_as(found)
            assert torch.equal(found[stable], lines.below.unsqueeze(1).expand_as(found)[stable])
            assert (found[~stable] == min(max(given, step.slope), 1.0)).all()


def test_a_wrong_slope_would_be_seen(monkeypatch):
    """The bound holds only because slopes are cut to what lies below the activation: without the cut it breaks."""
    shape, network = CASES["dense"]
    torch.manual_seed(9)
    inputs = torch.rand(2, *shape)
    graph, rows = read(network, inputs), margin_rows(torch.tensor([0, 1]), 4)
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.2)
    points = region.low + (region.high - region.low) * torch.rand(2000, 2, *shape, dtype=torch.float64).round()
    least = (graph(points.flatten(0, 1)).unflatten(0, (2000, 2)).unsqueeze(2) * rows).sum(3).amin(0)
    assert (AlphaCrown().bounds(graph, region, rows).run <= least).all()
    monkeypatch.setattr(slopes_module, "sound_slopes", lambda network, index, slopes, rows: 1.5 * slopes.double() + 0.5)
    assert (AlphaCrown().bounds(graph, region, rows).run > least).any()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"steps": 0}, "`steps` must be a whole number ≥ 1; got 0"),
        ({"limit_steps": -1}, "`limit_steps` must be a whole number ≥ 0; got -1"),
        ({"step_size": 0.0}, "`step_size` must be a number > 0; got 0.0"),
        ({"step_size": float("nan")}, "`step_size` must be a number > 0; got nan"),
    ],
)
def test_params_out_of_range_are_refused(params, said):
    with pytest.raises(InputError, match=said):
        AlphaCrown(**params)
