"""Verification against an exact mixed-integer programme; what is said must hold, and wrong proofs are caught."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

import trustbound as tb
from trustbound.certificates.methods import relaxed_network
from trustbound.certificates.verification import input_splitting, verifying
from trustbound.certificates.verification.properties import Property, Query, Unsafe

SETS = ("one row", "classes", "a corner", "corners", "a corner far away")


def network(seed, widths):
    torch.manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def unsafe(kind, outputs, generator):
    """Unsafe sets that lie about where the outputs are."""
    count = outputs.shape[1]
    low, high = outputs.quantile(0.02, 0), outputs.quantile(0.98, 0)

    def at(share):
        return low + (high - low) * share

    eye = torch.eye(count, dtype=torch.float64)
    if kind == "one row":
        row = torch.randn(1, count, generator=generator, dtype=torch.float64)
        return (Unsafe(rows=row, limits=(outputs @ row[0]).amin().reshape(1)),)
    if kind == "classes":
        rows = [eye[:1] - eye[other : other + 1] for other in range(1, count)]
        return tuple(Unsafe(rows=row, limits=(outputs @ row[0]).amin().reshape(1)) for row in rows)
    share = torch.rand(count, generator=generator, dtype=torch.float64) * 0.5
    corner = Unsafe(rows=torch.cat([eye, -eye[:1]]), limits=torch.cat([at(share), -at(share - 0.4)[:1]]))
    if kind == "a corner":
        return (corner,)
    if kind == "corners":
        return (corner, Unsafe(rows=-eye, limits=-at(1 - share / 2)))
    return (Unsafe(rows=torch.cat([eye, -eye]), limits=torch.cat([at(share), -at(share) - 1e-3])),)


def least(module, query, one):
    """The exact smallest distance to an unsafe set: min over the box of the largest row, solved by HiGHS."""
    low, high = query.low.numpy(), query.high.numpy()
    layers = [(part.weight.double().detach().numpy(), part.bias.double().detach().numpy()) for part in module[::2]]
    names = len(low) + 2 * sum(len(bias) for _, bias in layers[:-1]) + len(layers[-1][1]) + 1
    rows, ends, starts = [], [], []
    lower, upper = np.full(names, -np.inf), np.full(names, np.inf)
    lower[: len(low)], upper[: len(low)] = low, high
    whole = np.zeros(names)
    values, small, large, place = slice(0, len(low)), low, high, len(low)
    for number, (weight, bias) in enumerate(layers):
        least_, most = (
            np.minimum(weight, 0) @ large + np.maximum(weight, 0) @ small + bias,
            np.maximum(weight, 0) @ large + np.minimum(weight, 0) @ small + bias,
        )
        last = number == len(layers) - 1
        after = slice(place, place + len(bias))
        for neuron in range(len(bias)):
            affine = np.zeros(names)
            affine[values] = -weight[neuron]
            affine[place + neuron] = 1
            if last:
                rows.append(affine), starts.append(bias[neuron]), ends.append(bias[neuron])
                continue
            switch = place + len(bias) + neuron
            lower[place + neuron], lower[switch], upper[switch], whole[switch] = 0, 0, 1, 1
            rows.append(affine), starts.append(bias[neuron]), ends.append(np.inf)  # ≥ the operand
            below = affine.copy()
            below[switch] = -least_[neuron]  # y − w x − b ≤ −l (1 − s)
            rows.append(below), starts.append(-np.inf), ends.append(bias[neuron] - least_[neuron])
            off = np.zeros(names)
            off[place + neuron], off[switch] = 1, -max(most[neuron], 0)
            rows.append(off), starts.append(-np.inf), ends.append(0)
        values, place = after, place + len(bias) * (1 if last else 2)
        small, large = np.maximum(least_, 0), np.maximum(most, 0)
    for row, limit in zip(one.rows.numpy(), one.limits.numpy(), strict=True):
        bound = np.zeros(names)
        bound[values], bound[-1] = row, -1
        rows.append(bound), starts.append(-np.inf), ends.append(limit)
    aim = np.zeros(names)
    aim[-1] = 1
    found = milp(
        aim,
        constraints=LinearConstraint(np.stack(rows), np.array(starts), np.array(ends)),
        integrality=whole,
        bounds=Bounds(lower, upper),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status == 0, found.message
    return found.fun


def case(seed, kind, widths, distance):
    """A property whose nearest unsafe set is exactly so far away, in parts of how much the outputs vary."""
    module = network(seed, widths)
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(widths[0], generator=generator, dtype=torch.float64)
    wide = torch.rand(widths[0], generator=generator, dtype=torch.float64)
    low, high = middle - wide, middle + wide
    points = low + torch.rand(2000, widths[0], generator=generator, dtype=torch.float64) * (high - low)
    with torch.no_grad():
        outputs = module(points.float()).double()
    query = Query(low=low, high=high, unsafe=unsafe(kind, outputs, generator))
    shift = min(least(module, query, one) for one in query.unsafe) - distance * float(outputs.std(0).mean())
    sets = tuple(replace(one, limits=one.limits + shift) for one in query.unsafe)
    return module, Property(inputs=widths[0], outputs=widths[-1], queries=(replace(query, unsafe=sets),))


def decided(module, asked, **given):
    """What is said, and whether the witness is one: measured here, nothing allowed."""
    found = tb.verify(module, asked, timeout=60, **given)
    if found.witness is not None:
        (query,) = asked.queries
        point = found.witness.inputs
        assert bool(((point >= query.low) & (point <= query.high)).all())
        with torch.no_grad():
            outputs = module(point.float().unsqueeze(0)).double()
        assert float(query.margins(outputs)) <= 0
        torch.testing.assert_close(outputs[0], found.witness.outputs)
    return found


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("few", [True, False], ids=["inputs are split", "relus are split"])
def test_verdicts_are_those_of_an_exact_solver(kind, few, monkeypatch):
    if not few:
        monkeypatch.setattr(verifying, "FEW", 0)
    for seed, distance in enumerate((-0.01, 0.01, 0.003)):
        module, asked = case(seed, kind, (2 + seed % 2, 6, 5, 3), distance)
        found = decided(module, asked)
        assert found.verdict == ("sat" if distance < 0 else "unsat"), (seed, distance, found)


def test_both_ways_of_splitting_are_needed_and_used(monkeypatch):
    ways = set()
    for seed in range(2):
        module, asked = case(seed, "one row", (3, 12, 10, 2), 0.01)
        ways.add(decided(module, asked).reason)
        monkeypatch.setattr(verifying, "FEW", 0)
        ways.add(decided(module, asked).reason)
        monkeypatch.undo()
    assert {"by splitting inputs", "by splitting ReLUs"} <= ways, ways


@pytest.mark.parametrize("seed", range(2))
def test_a_property_with_choices_of_inputs_and_outputs_like_those_of_the_aircraft_networks(seed, tmp_path):
    module = network(seed, (5, 10, 10, 5))
    path = tmp_path / "property.vnnlib"
    lines = [f"(declare-const {letter}_{place} Real)" for letter in "XY" for place in range(5)]
    lines += [f"(assert (<= X_{place} 0.5)) (assert (>= X_{place} -0.25)) ; side {place}" for place in range(3)]
    lines.append("(assert (= X_3 0.125))")
    lines.append("(assert (or (and (>= X_4 -0.5) (<= X_4 -0.25)) (and (>= X_4 0.25) (<= X_4 0.5))))")
    # Clear of conflict is minimal, or strong left is far below the others.
    lines.append(
        "(assert (or (and (<= Y_0 Y_1) (<= Y_0 Y_2) (<= Y_0 Y_3) (<= Y_0 Y_4)) (<= (+ (* 2 Y_3) 0.25) (- Y_1 Y_2))))"
    )
    path.write_text("\n".join(lines))
    found = tb.verify(module, path, timeout=60)
    draws = torch.rand(20_000, 5, generator=torch.Generator().manual_seed(seed)) * 0.75 - 0.25
    draws[:, 3] = 0.125
    draws[:, 4] = torch.where(draws[:, 4] > 0.125, draws[:, 4].abs() * 0.5 + 0.25, -draws[:, 4].abs() - 0.25)
    with torch.no_grad():
        y = module(draws)
    reached = ((y[:, :1] <= y[:, 1:]).all(1) | (2 * y[:, 3] + 0.25 <= y[:, 1] - y[:, 2])).any()
    assert found.verdict in ("sat", "unsat")
    assert found.verdict == "sat" or not bool(reached)
    if found.verdict == "sat":
        x, y = found.witness.inputs, found.witness.outputs
        assert float(x[3]) == 0.125
        assert 0.25 <= abs(float(x[4])) <= 0.5
        assert bool((y[0] <= y[1:]).all()) or 2 * y[3] + 0.25 <= y[1] - y[2]


def forgotten(low, high, gradient, own=input_splitting._halved):
    """Both halves are the first one."""
    found = own(low, high, gradient)
    return None if found is None else tuple(part[: len(low)].repeat(2, 1) for part in found)


def together(self, own=verifying._Proof._specified):
    """A set that is refuted refutes all."""
    graph, groups = own(self)
    return graph, torch.zeros_like(groups)


def shifted(self, own=verifying._Proof._specified):
    """Limits are half of what they are."""
    graph, groups = own(self)
    last = graph.operations[-1]
    return replace(graph, operations=(*graph.operations[:-1], replace(last, bias=last.bias + 0.1))), groups


def low_chord(step, operand, own=relaxed_network.relax_activation):
    """The upper line is too low."""
    found = own(step, operand)
    return replace(found, shift=found.shift * 0.5)


WRONG = {
    "a half is never looked at": (input_splitting, "_halved", forgotten),
    "sets are taken together": (verifying._Proof, "_specified", together),
    "limits are moved": (verifying._Proof, "_specified", shifted),
    "the upper line is too low": (relaxed_network, "relax_activation", low_chord),
}


@pytest.fixture
def blind(monkeypatch):
    """No search finds anything: what is broken has to be left unproven."""
    monkeypatch.setattr(verifying.Falsifier, "search", lambda *given: None)
    monkeypatch.setattr(verifying._Proof, "_replay", lambda *given: False)


BROKEN = [(seed, kind) for seed in range(3) for kind in ("one row", "classes")]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_proof_contradicts_the_exact_solver(name, blind, monkeypatch):
    monkeypatch.setattr(*WRONG[name])
    wrong = (tb.verify(*case(*one, (2, 6, 5, 3), -0.01), timeout=2).verdict == "unsat" for one in BROKEN)
    assert any(wrong)


@pytest.mark.parametrize("few", [0, 10])
def test_what_is_broken_is_never_proven(few, blind, monkeypatch):
    monkeypatch.setattr(verifying, "FEW", few)
    for one in BROKEN:
        module, asked = case(*one, (2, 6, 5, 3), -0.001)
        assert tb.verify(module, asked, timeout=0.3).verdict in ("timeout", "unknown")
