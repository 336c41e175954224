"""Proofs about rotations, shifts and brightness: attacked, covered without a gap, and unknown where they end early."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.methods import parameter_splitting
from trustbound.certificates.methods.parameter_splitting import Cells, ParameterSplitting
from trustbound.errors import InputError, UnsupportedError
from trustbound.tasks import Regression
from trustbound.threat import Threat

#: Sizes at which some of the digits are proven and some are broken.
SIZES = {"rotation": 18.0, "translation": 0.4, "brightness": 0.4, "rotation,translation": 1.0}
SEARCHES = [row.name for row in ATTACKS if row.any_set]


def threat_of(name, share=1.0):
    if name == "rotation,translation":
        return Threat.parse(f"rotation:{5.4 * share},translation:{0.22 * share}")
    return Threat.parse(f"{name}:{SIZES[name] * share}")


@functools.cache
def network():
    """A small network fitted to real digits, and some of them."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=12)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(train.inputs[:600]), train.labels[:600])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tb.wrap(module.eval(), box=(0.0, 1.0)), test.inputs, test.labels


@functools.cache
def proven(name, share=1.0):
    model, inputs, labels = network()
    return certify("parameter-splitting", model, inputs, labels, threat_of(name, share), max_cells=400)


@pytest.mark.parametrize(
    ("name", "attack"),
    [(name, attack) for name in SIZES for attack in SEARCHES if "," in name or attack in ("apgd", "grid", "random")],
)
def test_no_search_over_the_parameters_breaks_what_is_proven(name, attack):
    model, inputs, labels = network()
    found = proven(name)
    assert 3 <= int(found.certified.sum()) < len(inputs), "all or nothing proven: the test would say little"
    steps = {} if attack in ("fgsm", "grid") else {"steps": 40 if attack in ("square", "random") else 10}
    broken = tb.attack(attack, model, inputs, labels, threat_of(name), **steps).success
    assert not bool((broken & found.certified).any())


@pytest.mark.parametrize("name", SIZES)
def test_nothing_in_the_set_has_a_smaller_margin_than_is_told(name):
    model, inputs, labels = network()
    found = proven(name)
    around = threat_of(name).perturbations.around(inputs, model.box)
    chance = torch.Generator().manual_seed(1)
    least = torch.full((len(inputs),), math.inf, dtype=torch.float64)
    for number in range(400):
        share = torch.rand(len(inputs), len(around.pace), generator=chance, dtype=torch.float64) * 2 - 1
        share = share.sign() if number < 20 else share
        with torch.no_grad():
            logits = model(around.apply((share * around.radius[:, None] * around.pace).float())).double()
        own = logits.gather(1, labels[:, None])[:, 0]
        least = torch.minimum(least, own - logits.scatter(1, labels[:, None], -math.inf).amax(1))
    assert bool((found.margin - found.slack <= least).all())
    close = least[found.certified] - found.margin[found.certified]
    assert float(close.median()) < 5.0  # a bound, and not merely below everything


def test_what_is_proven_shrinks_with_the_size_and_grows_with_the_work():
    model, inputs, labels = network()
    counts = [int(proven("rotation", share).certified.sum()) for share in (0.2, 1.0, 2.0)]
    assert counts[0] > counts[1] > counts[2]
    threat = threat_of("rotation")
    work = [certify("parameter-splitting", model, inputs, labels, threat, max_cells=most) for most in (1, 20, 400)]
    assert int(work[0].certified.sum()) < int(work[2].certified.sum())
    assert all(bool((more.certified >= less.certified).all()) for less, more in itertools.pairwise(work))


@pytest.mark.parametrize("method", ["interval", "alpha-crown"])
def test_cells_may_be_bounded_by_others(method):
    model, inputs, labels = network()
    found = certify("parameter-splitting", model, inputs, labels, "rotation:2", method=method, max_cells=64)
    assert 0 < int(found.certified.sum()) <= int(proven("rotation", 1 / 12).certified.sum())


def test_each_example_is_proven_as_it_would_be_alone_and_at_a_size_of_its_own():
    model, inputs, labels = network()
    graph, threat = read(model, inputs), threat_of("translation")
    sizes = torch.linspace(0.0, 0.6, len(inputs), dtype=torch.float64)
    whole = certify("parameter-splitting", graph, inputs, labels, threat, sizes=sizes, box=model.box, max_cells=100)
    for row in (1, 3, 5):
        at = slice(row, row + 1)
        alone = certify(
            "parameter-splitting",
            model,
            inputs[at],
            labels[at],
            f"translation:{float(sizes[row])}",
            max_cells=100,
        )
        torch.testing.assert_close(alone.margin, whole.margin[at], atol=1e-4, rtol=1e-4)  # τ follows ε
        assert torch.equal(alone.certified, whole.certified[at])
    assert certify("parameter-splitting", graph, inputs[:0], labels[:0], threat, box=model.box).certified.shape == (0,)


def test_a_target_and_a_regression_have_proofs_too():
    model, inputs, labels = network()
    wanted = certify("parameter-splitting", model, inputs, labels, "brightness:0.2;goal=target:3", max_cells=64)
    assert int(wanted.certified.sum()) >= len(inputs) // 2
    assert not bool(wanted.certified[labels == 3].any())
    mean = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False))
    nn.init.constant_(mean[1].weight, 1 / 64)
    inner = 0.25 + inputs / 4
    targets, task = mean(inner).detach(), Regression(tolerance=0.1)
    for size, told in ((0.099, True), (0.101, False)):
        found = certify(
            "parameter-splitting", mean, inner, targets, f"brightness:{size}", box=(0.0, 1.0), task=task, max_cells=64
        )
        assert bool((found.certified == told).all())


def test_parts_of_a_cell_share_their_borders_and_leave_nothing_out():
    model, inputs, labels = network()
    row = proven("rotation").certified.nonzero()[0]
    seen = []
    kept = parameter_splitting.cell_limits

    def noted(perturbations, given, box, floor, ceiling, working):
        seen.append((floor, ceiling))
        return kept(perturbations, given, box, floor, ceiling, working)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parameter_splitting, "cell_limits", noted)
        certify("parameter-splitting", model, inputs[row], labels[row], "rotation:18", max_cells=30)
    whole, first = (torch.cat([floor, ceiling], 1) for floor, ceiling in seen[:2])
    limit = 18 * (1 + 1e-6)
    assert whole.tolist()[0][1] >= limit
    assert float(first[0, 0]) == float(whole[0, 0])
    assert float(first[-1, 1]) == float(whole[0, 1])
    assert torch.equal(first[1:, 0], first[:-1, 1])


def test_parts_left_out_prove_what_a_search_breaks(monkeypatch):
    """One pixel comes in by a shift; the class changes between 0.85 and 0.95 of a pixel, and nowhere else."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        body[1].weight.copy_(torch.tensor([[0.0, 1.0, 0.0, 0.0]] * 2))
        body[1].bias.copy_(torch.tensor([-0.8, -0.9]))
        body[3].weight.copy_(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
        body[3].bias.copy_(torch.tensor([0.05, 0.0]))
    inputs, labels = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.tensor([0])
    model = tb.wrap(body, box=(0.0, 1.0))
    assert bool(tb.attack("random", model, inputs, labels, "translation:1", steps=1000).success)
    assert not bool(certify("parameter-splitting", model, inputs, labels, "translation:1").certified)
    kept = parameter_splitting._Search._split

    def short(search, given, most):
        parts, whole = kept(search, given, most)
        last = torch.cat([parts.floor[1:] <= parts.floor[:-1], torch.ones(1, parts.floor.shape[1]).bool()]).all(1)
        return parts.select(~last), whole

    monkeypatch.setattr(parameter_splitting._Search, "_split", short)
    assert bool(certify("parameter-splitting", model, inputs, labels, "translation:1").certified)


def test_the_certifier_refuses_in_a_sentence_what_it_cannot_prove():
    model, inputs, labels = network()
    with pytest.raises(
        UnsupportedError, match=r"serves rotation, translation, brightness; got linf. Take one of interval,"
    ):
        certify("parameter-splitting", model, inputs, labels, "linf:0.1")
    with pytest.raises(InputError, match=r"rotation moves the pixels of pictures .* shape \(64,\)"):
        certify("parameter-splitting", nn.Linear(64, 10), inputs.flatten(1), labels, "rotation:3", box=(0.0, 1.0))
    for params, said in (
        ({"max_cells": 0}, "`max_cells` must be a whole number"),
        ({"timeout": 0.0}, "`timeout` must be a number of seconds"),
        ({"method": "lipschitz"}, "`method` must be one of interval, crown"),
    ):
        with pytest.raises(InputError, match=said):
            ParameterSplitting(**params)


def test_out_of_time_nothing_is_proven_and_nothing_is_lost():
    model, inputs, labels = network()
    found = certify("parameter-splitting", model, inputs, labels, threat_of("rotation"), timeout=1e-9)
    assert bool((found.certified <= proven("rotation").certified).all())
    assert bool((found.margin <= proven("rotation").margin + 1e-9).all())


def test_the_worst_cells_come_first_and_as_many_as_are_asked_for():
    bounds = torch.tensor([-1.0, -3.0, 2.0, -2.0, -math.inf, 5.0], dtype=torch.float64)
    ends = torch.zeros(6, 1, dtype=torch.float64)
    held = Cells(
        owner=torch.tensor([0, 0, 0, 0, 1, 1]), floor=ends, ceiling=ends, value=bounds, run=bounds, clean=bounds
    )
    assert held.worst(torch.tensor([2, 1])).tolist() == [1, 3, 4]
    assert held.worst(torch.tensor([0, 9])).tolist() == [4]


class Lifted(nn.Module):
    """Two classes whose margin is what is left of a bias above a pixel, in float32 whatever is handed over."""

    def __init__(self, bias):
        super().__init__()
        self.layer = nn.Linear(1, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.layer.bias.copy_(torch.tensor([bias, 0.0]))

    def forward(self, inputs):
        return self.layer(inputs.flatten(1).float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_a_change_rounds_in_the_precision_of_the_inputs_is_charged(dtype):
    """The largest brightness, as the set itself applies it, ends on the boundary: nothing is proven."""
    inputs = torch.tensor([[0.3]]).to(dtype)
    for epsilon in torch.linspace(0.01, 0.3, 30).tolist():
        threat = Threat.parse(f"brightness:{epsilon:.4f}")
        around = threat.perturbations.around(inputs, tb.Box(0.0, 1.0))
        reached = around.apply(around.ceiling)
        network = Lifted(float(reached))
        outputs = network(reached)[0]
        found = certify("parameter-splitting", network, inputs, torch.tensor([0]), threat, box=(0.0, 1.0))
        assert not (bool(found.certified) and outputs[0] <= outputs[1]), threat
