"""Branch and bound against mixed-integer programmes, and its parts against what their points show."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from tests.truth.test_bounds_reference import dense_layers
from torch import nn

import trustbound as tb
from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.methods import alpha_crown, slopes
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.region import Region
from trustbound.certificates.verification import roots
from trustbound.certificates.verification.branch_and_bound import BranchAndBound
from trustbound.certificates.verification.domains import Tree
from trustbound.certificates.verification.leaf_programme import solve
from trustbound.errors import InputError
from trustbound.metrics.margin import margin_rows

BOX = (0.0, 1.0)


def fully_connected(seed, widths, slope=0.0, scale=2.0):
    torch.manual_seed(seed)
    modules = []
    for first, second in pairwise(widths[:-1]):
        modules += [nn.Linear(first, second), nn.LeakyReLU(slope) if slope else nn.ReLU()]
    network = nn.Sequential(*modules, nn.Linear(*widths[-2:]))
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.Linear):
                module.weight.mul_(scale)
        network[-1].bias -= network(torch.full((1, widths[0]), 0.5))[0]
    return network


def convolutional(seed):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        for place in (0, 2, 5):
            network[place].weight.mul_(2.0)
        network[5].bias -= network(torch.full((1, 1, 4, 4), 0.5))[0]
    return network


def alternating(network, shape):
    """Dense layers with a slope after each but the last: what stands between two activations is one matrix."""
    layers = []
    for layer in dense_layers(network, shape):
        if isinstance(layer, tuple) and layers and isinstance(layers[-1], tuple):
            matrix, bias = layers.pop()
            layer = (layer[0] @ matrix, layer[0] @ bias + layer[1])
        layers.append(layer)
    return layers


def exact_margin(layers, low, high, row):
    """Minimise row · network over a box by a mixed-integer programme, with a switch for each unit."""
    count = len(low)
    columns = count + sum(3 * len(layers[k][1]) for k in range(0, len(layers) - 1, 2))
    lines, least, most = [], [], []
    lower, upper, whole = np.full(columns, -np.inf), np.full(columns, np.inf), np.zeros(columns)
    lower[:count], upper[:count] = low, high
    before, start, (below, above) = 0, count, (low, high)

    def add(pairs, first, last):
        line = np.zeros(columns)
        for place, value in pairs:
            line[place] += value
        lines.append(line)
        least.append(first)
        most.append(last)

    for k in range(0, len(layers) - 1, 2):
        (w, b), slope = layers[k], layers[k + 1]
        middle, half = w @ (below + above) / 2 + b, np.abs(w) @ (above - below) / 2 + 1e-9
        bottom, top = np.minimum(middle - half, 0.0), np.maximum(middle + half, 0.0)
        size = len(b)
        for j in range(size):
            z, h, on = start + j, start + size + j, start + 2 * size + j
            lower[on], upper[on], whole[on] = 0.0, 1.0, 1.0
            add([(z, 1.0), *((before + i, -w[j, i]) for i in range(w.shape[1]))], b[j], b[j])
            add([(h, 1.0), (z, -1.0)], 0.0, np.inf)
            add([(h, 1.0), (z, -slope)], 0.0, np.inf)
            add([(h, 1.0), (z, -1.0), (on, -(1 - slope) * bottom[j])], -np.inf, -(1 - slope) * bottom[j])
            add([(h, 1.0), (z, -slope), (on, -(1 - slope) * top[j])], -np.inf, 0.0)
        before, start = start + size, start + 3 * size
        below, above = (np.maximum(v, slope * v) for v in (middle - half, middle + half))
    w, b = layers[-1]
    cost = np.zeros(columns)
    cost[before : before + w.shape[1]] = row @ w
    found = milp(
        cost,
        constraints=LinearConstraint(np.array(lines), least, most),
        integrality=whole,
        bounds=Bounds(lower, upper),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0
    return found.fun + row @ b


CASES = {
    **{f"relu {seed}": (fully_connected(seed, (3, 12, 10, 3)), (3,)) for seed in range(3)},
    **{f"wide {seed}": (fully_connected(seed, (2, 24, 3)), (2,)) for seed in range(1)},
    **{f"leaky {seed}": (fully_connected(seed, (3, 10, 8, 3), 0.2), (3,)) for seed in range(1)},
    **{f"convolution {seed}": (convolutional(seed), (1, 4, 4)) for seed in range(1)},
}
BEYOND = []


@pytest.mark.parametrize("name", list(CASES))
def test_it_decides_as_a_mixed_integer_programme_does(name):
    """Each example just inside of its exact radius and just beyond it: proven there, broken here, never unknown."""
    network, shape = CASES[name]
    network = network.double()
    inputs = 0.1 + 0.8 * torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = network(inputs).argmax(1)
    layers, rows = alternating(network, shape), margin_rows(labels, 3).numpy()
    for i in range(3):

        def exactly(size, i=i):
            ends = [(inputs[i] + sign * size).clamp(0, 1).flatten().numpy() for sign in (-1, 1)]
            return min(exact_margin(layers, *ends, row) for row in rows[i])

        least, most = 0.0, 0.7
        for _ in range(8):
            middle = (least + most) / 2
            least, most = (middle, most) if exactly(middle) > 0 else (least, middle)
        x, y = inputs[i : i + 1], labels[i : i + 1]
        for epsilon, robust in ((0.97 * least, True), (1.03 * most, False)):
            threat = tb.Threat.parse(f"linf:{epsilon!r}")
            proof = certify("branch-and-bound", network, x, y, threat, box=BOX, timeout=math.inf)
            cheaper = certify("alpha-crown", network, x, y, threat, box=BOX)
            assert bool(proof.certified) is robust
            assert bool(proof.falsified) is not robust
            assert float(proof.margin) <= exactly(epsilon) + 1e-6
            assert (proof.margin >= cheaper.margin).all()
            BEYOND.append(robust and not bool(cheaper.certified))
            if robust:
                assert proof.witness.isnan().all()
                continue
            assert int(network(proof.witness).argmax()) != int(y)
            assert float((proof.witness - x).abs().amax()) <= epsilon + 1e-6
            assert 0.0 <= float(proof.witness.amin()) <= float(proof.witness.amax()) <= 1.0


def test_the_cases_needed_splits():
    if len(BEYOND) == 6 * len(CASES):  # this process has run them all
        assert sum(BEYOND) >= len(CASES)


def tree_of(seed, widths=(3, 8, 6, 3), radius=0.3, slope=0.0, norm="linf"):
    network = fully_connected(seed, widths, slope)
    inputs = torch.full((1, widths[0]), 0.45)
    graph = read(network, inputs)
    region = Region.around(inputs, BOX, norm, radius)
    rows = margin_rows(network(inputs).argmax(1), widths[-1])[0]
    return Tree.over(AlphaCrown().limits(graph, region), rows)


def operands(tree, points):
    """The operands of the unstable neurons at points (P, *F), (P, N), and the rows' values, (P, K)."""
    values = []
    for step in tree.network.graph.operations:
        values.append(step.apply(*([points] if not step.sources else [values[source] for source in step.sources])))
    steps = tree.network.graph.operations
    read_ = [values[steps[index].sources[0]].flatten(1)[:, at] for index, at, _ in tree.places]
    return torch.cat(read_, 1), values[-1] @ tree.rows.T


def parts(tree, count, seed):
    """Random parts of the region with the points of a sample that lie in each, split as those points are."""
    chance = torch.Generator().manual_seed(seed)
    region = tree.network.region
    points = region.low + (region.high - region.low) * torch.rand(
        4000, *region.inputs.shape[1:], generator=chance, dtype=torch.float64
    )
    z, margins = operands(tree, points)
    signs = z[torch.randint(len(points), (count,), generator=chance)].sign().to(torch.int8)
    signs = torch.where(torch.rand(signs.shape, generator=chance) < 0.5, signs, 0).to(torch.int8)
    whole = tree.whole(torch.arange(count) % len(tree.rows))
    domains = replace(
        whole,
        signs=signs,
        slopes=torch.rand(signs.shape, generator=chance),
        multipliers=torch.rand(signs.shape, generator=chance),
    )
    inside = ((signs.unsqueeze(1) == 0) | (z.unsqueeze(0) * signs.unsqueeze(1) >= 0)).all(2)
    least = torch.stack([margins[inside[d], domains.row[d]].amin() for d in range(count)])
    return domains, least


@pytest.mark.parametrize("slope", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_bounds_of_parts_hold_on_the_points_of_the_part_alone(seed, slope):
    tree = tree_of(seed, slope=slope)
    domains, least = parts(tree, 40, seed)
    raw = tree.bound(domains)
    assert (raw.value <= least).all()
    assert (raw.run <= raw.value).all()
    torch.testing.assert_close(tree.sketch(domains), raw.value, atol=1e-4, rtol=1e-4)
    improved = tree.improve(domains, Ascent(steps=40, step_size=0.3), math.inf)
    better = tree.bound(improved)
    assert (better.value >= raw.value - 1e-5).all()
    assert (better.value <= least).all()
    # The signs are worth something: these parts are better bounded than the region without them.
    unsplit = tree.bound(
        tree.improve(replace(domains, signs=0 * domains.signs), Ascent(steps=40, step_size=0.3), math.inf)
    )
    assert (better.value >= unsplit.value - 1e-3).all()
    assert (better.value > unsplit.value + 1e-2).any()


@pytest.mark.parametrize("fault", ["multipliers", "lines"])
def test_a_split_kept_on_the_wrong_side_would_be_seen(fault, monkeypatch):
    choices, relaxed = Tree.choices, Tree.relaxed

    def wrong_multipliers(self, *given):
        chosen, added = choices(self, *given)
        return chosen, {index: -part for index, part in added.items()}

    if fault == "multipliers":
        monkeypatch.setattr(Tree, "choices", wrong_multipliers)
    else:
        monkeypatch.setattr(Tree, "relaxed", lambda self, network, signs: relaxed(self, network, -signs))
    seen = 0
    for seed in range(3):
        tree = tree_of(seed)
        domains, least = parts(tree, 40, seed)
        seen += int((tree.bound(domains).value > least).sum())
    assert seen


def test_multipliers_below_zero_and_slopes_beyond_one_are_cut():
    tree = tree_of(0)
    domains, least = parts(tree, 40, 0)
    wild = replace(domains, multipliers=-5 * domains.multipliers, slopes=4 * domains.slopes - 2)
    assert (tree.bound(wild).value <= least).all()
    tame = replace(domains, multipliers=0 * domains.multipliers, slopes=wild.slopes.clamp(0, 1))
    assert torch.equal(tree.bound(wild).value, tree.bound(tame).value)


@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_leaves_are_solved_exactly_and_empty_ones_closed(slope):
    tree = tree_of(5, (2, 7, 5, 2), 0.4, slope)
    chance = torch.Generator().manual_seed(0)
    grid = torch.cartesian_prod(*[torch.linspace(0, 1, 401, dtype=torch.float64)] * 2)
    region = tree.network.region
    grid = grid[((grid >= region.low) & (grid <= region.high)).all(1)]
    z, margins = operands(tree, grid)
    whole = tree.whole(torch.tensor([0]))
    assert tree.neurons >= 5
    full = empty = 0
    those = z[torch.randint(len(z), (12,), generator=chance)].sign()
    for signs in torch.cat([those, torch.randn(12, tree.neurons, generator=chance).sign()]):
        leaf, point, _ = solve(tree, replace(whole, signs=signs.to(torch.int8).unsqueeze(0)))
        bound, inside = tree.bound(leaf), (z * signs >= 0).all(1)
        if point is None:
            assert not inside.any()
            assert float(bound.run) > 0
            empty += 1
            continue
        there, value = operands(tree, point)
        assert (there * signs >= -1e-7).all()
        assert float(bound.value) == pytest.approx(float(value[0, 0]), abs=1e-6)
        if inside.any():
            assert float(bound.value) <= float(margins[inside, 0].amin()) + 1e-9
            full += 1
    assert full >= 5
    assert empty >= 3


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_stopped_early_it_has_the_smallest_bound_of_all_parts(norm):
    network = fully_connected(3, (4, 16, 16, 3))
    inputs = 0.2 + 0.6 * torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    graph, labels = read(network, inputs), network(inputs).argmax(1)
    # Just beyond what α-CROWN proves.
    reach = 1.08 * certified_radius(AlphaCrown(), graph, inputs, labels, BOX, norm)
    region = Region.around(inputs, BOX, norm, reach)
    alpha = AlphaCrown().margins(graph, region, labels)
    found = [BranchAndBound(timeout=math.inf, max_nodes=n).margins(graph, region, labels) for n in (1, 40, 400)]
    found.insert(0, BranchAndBound(timeout=0.0).margins(graph, region, labels))
    for worse, better in zip([alpha, *found], found, strict=False):
        assert (better.run >= worse.run - 1e-9).all()
    assert (found[-1].run > alpha.run + 1e-3).any()
    chance = torch.Generator().manual_seed(2)
    for _ in range(300):
        share = torch.rand(inputs.shape, generator=chance, dtype=torch.float64).round()
        points = region.low + (region.high - region.low) * share
        away = points - region.inputs
        size = {"linf": 0 * away[:, 0], "l2": away.norm(2, 1), "l1": away.norm(1, 1)}[norm]
        points = region.inputs + away * (reach / size.clamp(min=1e-9)).clamp(max=1.0).unsqueeze(1)
        margins = (margin_rows(labels, 3) @ graph(points).unsqueeze(2)).squeeze(2).amin(1)
        assert (found[-1].run <= margins).all()


def test_counterexamples_are_those_of_the_model_as_it_runs():
    network = fully_connected(2, (3, 10, 8, 3))
    inputs = 0.2 + 0.6 * torch.rand(12, 3, generator=torch.Generator().manual_seed(3))
    labels = network(inputs).argmax(1)
    labels[0] = (labels[0] + 1) % 3  # misclassified as it is
    for model in (network, read(network, inputs), tb.wrap(network)):
        box = {} if isinstance(model, tb.Model) else {"box": BOX}
        proof = certify("branch-and-bound", model, inputs, labels, "linf:0.15", timeout=20.0, **box)
        assert bool(proof.falsified[0])
        assert (proof.certified | proof.falsified).all()
        assert proof.certified.any()
        witness = proof.witness[proof.falsified]
        assert (network(witness).argmax(1) != labels[proof.falsified]).all()
        assert ((witness.double() - inputs[proof.falsified].double()).abs() <= 0.15 + 1e-6).all()
    # What a cheaper method returns says nothing of counterexamples.
    assert certify("alpha-crown", network, inputs, labels, "linf:0.15", box=BOX).falsified is None


def test_a_wanted_class_is_proven_or_reached():
    network = fully_connected(4, (3, 10, 8, 3))
    inputs = 0.2 + 0.6 * torch.rand(8, 3, generator=torch.Generator().manual_seed(4))
    labels = network(inputs).argmax(1)
    proof = certify("branch-and-bound", network, inputs, labels, "linf:0.15;goal=target:1", box=BOX, timeout=20.0)
    concerned = labels != 1
    assert torch.equal(proof.certified | proof.falsified, concerned)
    assert (network(proof.witness[proof.falsified]).argmax(1) == 1).all()
    assert proof.margin[~concerned].isnan().all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_examples_begin_together_in_as_many_passes_as_one_and_are_decided_as_alone(norm, monkeypatch):
    network = convolutional(1)
    inputs = 0.2 + 0.6 * torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(5))
    labels = network(inputs).argmax(1)
    graph, epsilon = read(network, inputs), {"linf": 0.03, "l2": 0.06}[norm]
    region, rows = Region.around(inputs, BOX, norm, epsilon), margin_rows(labels, 3)
    passes = []

    def counted(*given, own=roots.propagate_backward, **named):
        passes.append(len(given[0].region))
        return own(*given, **named)

    for module in (alpha_crown, slopes, roots):
        monkeypatch.setattr(module, "propagate_backward", counted)
    alone = [roots.roots(graph, region.select(slice(i, i + 1)), rows[i : i + 1], 2**27)[0] for i in range(12)]
    one_by_one = len(passes)
    passes.clear()
    found = roots.roots(graph, region, rows, 2**27)
    assert 0 < len(passes) <= one_by_one / 3
    monkeypatch.undo()
    for own, shared in zip(alone, found, strict=True):
        assert torch.allclose(own.bound.run, shared.bound.run, atol=0.02)
        assert [len(limits.low) for limits in shared.network.bounds] == [1] * len(graph.operations)
    threat = f"{norm}:{epsilon}"
    batch = certify("branch-and-bound", network, inputs, labels, threat, box=BOX, timeout=math.inf, max_nodes=4000)
    assert batch.certified.any()
    assert batch.falsified.any()
    for i in range(12):
        x, y = inputs[i : i + 1], labels[i : i + 1]
        single = certify("branch-and-bound", network, x, y, threat, box=BOX, timeout=math.inf, max_nodes=4000)
        assert (bool(single.certified), bool(single.falsified)) == (bool(batch.certified[i]), bool(batch.falsified[i]))


def test_limits_are_left_as_crown_has_them_when_time_is_up():
    network = fully_connected(3, (4, 16, 16, 3))
    inputs = 0.2 + 0.6 * torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    graph, region = read(network, inputs), Region.around(inputs, BOX, "linf", 0.1)
    late, crown, free = (
        AlphaCrown(limit_steps=30).limits(graph, region, ends=0.0),
        AlphaCrown(limit_steps=0).limits(graph, region),
        AlphaCrown(limit_steps=30).limits(graph, region),
    )
    pairs = [(one.low, other.low) for one, other in zip(late.bounds, crown.bounds, strict=True)]
    assert all(torch.equal(one, other) for one, other in pairs)
    assert any((one.low > other.low + 1e-6).any() for one, other in zip(free.bounds, crown.bounds, strict=True))


def test_rows_asked_for_one_by_one_and_other_tasks_have_the_bound_of_alpha_crown():
    network = fully_connected(1, (3, 10, 8, 2))
    inputs = torch.full((2, 3), 0.5)
    graph, region = read(network, inputs), Region.around(inputs, BOX, "linf", 0.2)
    rows = torch.eye(2, dtype=torch.float64).expand(2, -1, -1)
    assert torch.equal(BranchAndBound().bounds(graph, region, rows).run, AlphaCrown().bounds(graph, region, rows).run)
    model = tb.wrap(network, task="regression:tolerance=0.4")
    targets = network(inputs).detach()
    proof, wanted = (
        tb.certify(name, model, inputs, targets, "linf:0.01") for name in ("branch-and-bound", "alpha-crown")
    )
    assert torch.equal(proof.margin, wanted.margin)
    assert not proof.falsified.any()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"timeout": -1.0}, "`timeout` must be a number of seconds ≥ 0; got -1.0"),
        ({"timeout": math.nan}, "`timeout` must be a number of seconds ≥ 0; got nan"),
        ({"timeout": True}, "`timeout` must be a number of seconds ≥ 0; got True"),
        ({"max_nodes": 0}, "`max_nodes` must be a whole number ≥ 1; got 0"),
        ({"steps": 1.5}, "`steps` must be a whole number ≥ 1; got 1.5"),
        ({"candidates": 0}, "`candidates` must be a whole number ≥ 1; got 0"),
    ],
)
def test_params_out_of_range_are_refused(params, said):
    with pytest.raises(InputError, match=said):
        BranchAndBound(**params)


def test_each_example_is_decided_at_a_size_of_its_own():
    network = fully_connected(2, (3, 10, 8, 3))
    inputs = 0.2 + 0.6 * torch.rand(4, 3, generator=torch.Generator().manual_seed(3))
    labels, sizes = network(inputs).argmax(1), torch.tensor([1e-4, 0.5, 1e-4, 0.5])
    proof = certify("branch-and-bound", network, inputs, labels, "linf:0.2", sizes=sizes, box=BOX, timeout=20.0)
    assert proof.certified.tolist() == [True, False, True, False]
    assert proof.falsified.tolist() == [False, True, False, True]
