"""What a pass was for and what was looked at: booked by example, and the same as a count outside says."""

import collections
import dataclasses
import traceback

import pytest
import torch
from torch import nn

from trustbound.attacks import attack, fit_perturbation
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.model_access.query_accounting import Passes
from trustbound.attacks.registry import ATTACKS
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.record.cost import PURPOSES, Cost, Spent
from trustbound.threat import Access

#: Who stands in the call stack says what a question is for.
ASKERS = {"_donated": "donors", "_checked": "recheck", "clean_outputs": "clean"}


class Counted(nn.Module):
    """Counts rows by what they are asked for and by whether a gradient follows; its detector apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        self.seen = collections.Counter()

    def forward(self, inputs):
        names = {frame.name for frame in traceback.extract_stack()}
        purpose = next((ASKERS[name] for name in ASKERS if name in names), "search")
        white = inputs.requires_grad or "_scales" in names
        self.seen[purpose, "gradients" if white else "outputs"] += len(inputs)
        if inputs.requires_grad:
            inputs.register_hook(lambda gradient: self.back(purpose, gradient))
        return self.layers(inputs)

    def back(self, purpose, gradient):
        self.seen[purpose, "backwards"] += len(gradient)

    def rejects(self, inputs):
        self.seen["detector"] += len(inputs)
        return inputs[:, -1] > 0.55


def told(cost):
    """The record's numbers, as the count outside has them."""
    found = collections.Counter()
    for purpose, spent in cost.purposes.items():
        found[purpose, "outputs"] += spent.decisions + spent.scores
        found[purpose, "gradients"] += spent.gradients
        found[purpose, "backwards"] += spent.backwards
        found["detector"] += spent.detector
    return +found


@pytest.mark.parametrize("detector", [False, True], ids=["open", "detector"])
@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_a_count_outside_agrees_by_purpose_and_by_what_was_seen(row, draws, detector):
    net = Counted().eval()
    inputs = 0.2 + 0.6 * torch.rand(9, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        labels = net.layers(inputs).argmax(1)
    model = wrap(net, adaptation=Adaptation(draws=draws, detector=net.rejects if detector else None))
    kind = (*row.norms, "brightness")[0]
    few = {"steps": 4, "draws": 10, "tries": 5, "passes": 2}
    known = {field.name for field in dataclasses.fields(ATTACKS.load(row.name)) if field.init}
    few = {name: value for name, value in few.items() if name in known}
    for level in Access:
        if level < Access[row.needs.upper()]:
            continue
        net.seen.clear()
        threat = f"{kind}:0.3;access={level.name.lower()}"
        found = attack(row.name, model, inputs, labels, threat, batch_size=4, donors=torch.rand(5, 8), **few)
        # Where a perturbation is fitted, the last look at what it does is no part of `_checked`.
        if not row.shared:
            assert told(found.cost) == net.seen
        sums = sum(found.cost.purposes.values(), Spent())
        assert (sums.forwards, sums.backwards) == (found.cost.forwards, found.cost.backwards)
        assert sums.detector == net.seen["detector"]
        assert (sums.decisions > 0) == (level is Access.DECISIONS)
        assert (sums.scores > 0) == (level is not Access.DECISIONS)
        assert list(found.cost.purposes) == [name for name in PURPOSES if name in found.cost.purposes]


def test_inputs_of_the_data_that_are_tried_are_booked_apart():
    """A model that answers with one class nearly everywhere: no random point starts, inputs of the data do."""
    model = wrap(Rare())
    inputs, labels = torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    donors = torch.tensor([[0.999, 0.999], [0.2, 0.2]])
    found = attack("hopskipjump", model, inputs, labels, "linf:0.6;access=decisions", donors=donors, tries=3, steps=2)
    assert found.success.all()
    assert found.cost.purposes["donors"].decisions > 0
    assert found.cost.purposes["donors"].scores == 0


class Rare(nn.Module):
    def forward(self, inputs):
        return torch.stack([torch.full((len(inputs),), 0.99), inputs.amin(1)], dim=1)


def test_fitting_is_a_search_and_its_last_look_is_not():
    net, inputs = nn.Linear(4, 3), torch.rand(10, 4)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    shared = fit_perturbation("uap", net, inputs, labels, "linf:0.2", passes=2)
    assert {name: spent.scores for name, spent in shared.cost.purposes.items() if name != "search"} == {
        "clean": 10,
        "recheck": 10,
    }
    assert shared.cost.purposes["search"].gradients == shared.cost.backwards > 0


def test_passes_are_kept_for_each_example_and_purpose():
    passes = Passes(3)
    rows = torch.tensor([0, 0, 2])
    with passes.booking("clean"):
        passes.count(torch.arange(3), forwards=1)
    passes.count(rows, forwards=3, backwards=3, seen="gradients")
    passes.count(rows, forwards=1, seen="detector")
    assert passes.booked("clean").tolist() == [1, 1, 1]
    assert passes.booked("search", "gradients").tolist() == [6, 0, 3]
    assert passes.booked(seen="detector").tolist() == [2, 0, 1]
    assert passes.forwards.tolist() == [9, 1, 5]
    assert passes.backwards.tolist() == [6, 0, 3]
    assert passes.spent() == {"clean": Spent(scores=3), "search": Spent(gradients=9, detector=3, backwards=9)}


def test_costs_add_up_by_purpose():
    one = Cost(3, 1, 0, 0.5, {"search": Spent(gradients=3, backwards=1)})
    two = Cost(5, 0, 5, 0.5, {"recheck": Spent(scores=4), "search": Spent(scores=1)})
    both = one + two
    assert both == Cost(8, 1, 5, 1.0, {"search": Spent(scores=1, gradients=3, backwards=1), "recheck": Spent(scores=4)})
    assert (both.all_for("checks").purposes["checks"].forwards, hash(both)) == (8, hash(Cost(8, 1, 5, 1.0)))


class Fails(nn.Module):
    """Raises on batches of more than 8, and on inputs whose first feature is large; counts whatever it is asked."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 3)
        self.asked = self.answered = self.backwards = 0

    def forward(self, inputs):
        self.asked += len(inputs)
        if len(inputs) > 8 or bool((inputs[:, 0] > 0.7).any()):
            raise RuntimeError("out of range")
        self.answered += len(inputs)
        if inputs.requires_grad:
            inputs.register_hook(self.back)
        return self.linear(inputs)

    def back(self, gradient):
        self.backwards += len(gradient)


@pytest.mark.parametrize("access", ["gradients", "scores", "decisions"])
def test_what_raises_is_booked_each_time_that_it_is_asked(access):
    """Batches that raise are halved until the input is found: every question on the way is one."""
    model = Fails()
    inputs, owner = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20).repeat(2)
    level = Access[access.upper()]
    clean = inputs[:20].clone()
    clean[:, 0] = 0.5
    with Oracle(wrap(model), examples=20, access=level, batch_size=32, silenced=clean) as oracle:
        outputs = oracle.outputs(inputs, owner)
        if level is Access.GRADIENTS:
            oracle.gradient(inputs, owner, lambda outputs, rows: outputs[:, 0])
    assert 0 < int(outputs.isnan().any(dim=1).sum()) < 40
    assert model.asked > model.answered
    assert int(oracle.forwards.sum()) == model.asked
    assert int(oracle.backwards.sum()) == model.backwards
    assert (model.backwards > 0) == (level is Access.GRADIENTS)
