"""Votes over ablated pictures: counted as the paper counts, and never changed by any patch where they are certified."""

import functools
import itertools

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.audits.stages.proving import certifiers
from trustbound.audits.work_units.execute import execute
from trustbound.audits.work_units.subject import Subject
from trustbound.audits.work_units.unit import WorkUnit
from trustbound.certificates import certify
from trustbound.certificates.methods.ablation import Ablation
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import AblationTraining
from trustbound.model.defences.ablated import Ablated, ablate

KINDS = {"band": ("band", 2), "block": ("block", 4)}


@functools.cache
def network(kind="band", width=2):
    """A small network trained on ablated digits, and some of them."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10))
    model = tb.wrap(body, box=(0.0, 1.0), input_shape=(1, 8, 8), classes=10)
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=40)
    objective = AblationTraining(kind=kind, width=width)
    recipe = Recipe(objective=objective, epochs=10, batch_size=64, learning_rate=5e-3)
    return tb.train(model, train, recipe).model, test.inputs, test.labels


def patched(inputs, side, content):
    """Every picture with every place of a square filled by (N, C, side, side), all pairs of them."""
    height, width = inputs.shape[2:]
    for row, column in itertools.product(range(height - side + 1), range(width - side + 1)):
        for shown in content:
            moved = inputs.clone()
            moved[:, :, row : row + side, column : column + side] = shown
            yield (row, column), moved


@pytest.mark.parametrize("name", KINDS)
def test_no_patch_anywhere_changes_what_is_certified(name):
    model, inputs, labels = network(*KINDS[name])
    inputs, labels = (part[: 40 if name == "band" else 24] for part in (inputs, labels))
    kind, width = KINDS[name]
    found = certify("ablation", model, inputs, labels, "patch:1", kind=kind, width=width)
    assert int(found.certified.sum()) >= (6 if name == "band" else 2), "next to nothing certified: an empty test"
    voting = ablate(model, kind=kind, width=width)
    content = torch.tensor([0.0, 1.0, 0.5][: 3 if name == "band" else 2]).reshape(-1, 1, 1, 1)
    least = torch.full((len(inputs),), torch.inf)
    with torch.no_grad():
        for _, moved in patched(inputs, 1, content):
            votes = voting(moved)
            own = votes.gather(1, labels[:, None])[:, 0]
            least = torch.minimum(least, own - votes.scatter(1, labels[:, None], -1.0).amax(1))
    assert bool((found.margin <= least).all())
    assert bool((least[found.certified] > 0).all())
    for attack in ("margin-pgd", "random") if name == "band" else ("bim",):
        broken = tb.attack(attack, voting, inputs, labels, "patch:1", steps=4).success
        assert not bool((broken & found.certified).any())


def test_votes_that_a_patch_can_change_are_those_that_it_changes():
    """Of a network whose answer hangs on one bright pixel, every copy that shows it votes otherwise, and no other."""

    class Bright(nn.Module):
        def forward(self, inputs):
            most = inputs.flatten(1).amax(1)
            return torch.stack([0.5 - most, most - 0.5], 1)

    model = tb.wrap(Bright(), box=(0.0, 1.0), input_shape=(1, 6, 9), classes=2)
    inputs = torch.zeros(1, 1, 6, 9)
    for (kind, width), side in itertools.product((("band", 1), ("band", 4), ("block", 1), ("block", 3)), (1, 2, 4, 6)):
        module = Ablated(model, kind=kind, width=width)
        touched = module.touched(side, 6, 9)
        for place, moved in patched(inputs, side, torch.ones(1, 1, 1, 1)):
            assert int(module(moved)[0, 1]) == touched, (kind, width, side, place)
        places = 9 if kind == "band" else 54
        found = certify("ablation", model, inputs, torch.tensor([0]), f"patch:{side}", kind=kind, width=width)
        assert int(found.margin) == places - 2 * touched
        assert bool(found.certified) is (places > 2 * touched)
        assert int(found.touched) == touched


def test_a_count_that_leaves_out_the_width_is_broken_by_a_patch(monkeypatch):
    monkeypatch.setattr(
        Ablated, "touched", lambda module, side, height, width: side
    )  # the width of what is shown left out

    class Bright(nn.Module):
        def forward(self, inputs):
            most = inputs.flatten(1).amax(1)
            return torch.stack([0.5 - most, most - 0.5], 1)

    model = tb.wrap(Bright(), box=(0.0, 1.0), input_shape=(1, 6, 9), classes=2)
    inputs, labels = torch.zeros(1, 1, 6, 9), torch.tensor([0])
    assert bool(certify("ablation", model, inputs, labels, "patch:2", width=5).certified)
    assert bool(tb.attack("random", ablate(model, width=5), inputs, labels, "patch:2", steps=20).success)


def test_a_threshold_lets_copies_vote_for_several_classes_or_none():
    model, inputs, labels = network()
    many, few = (ablate(model, width=2, threshold=chance)(inputs).detach() for chance in (0.05, 0.9))
    assert float(many.sum()) > 8 * len(inputs) > float(few.sum())
    found = certify("ablation", model, inputs, labels, "patch:1", width=2, threshold=0.3)
    assert torch.equal(found.votes, ablate(model, width=2, threshold=0.3)(inputs).long())


def test_a_certificate_is_of_the_voting_model_and_audits_of_that_alone_take_it():
    model, inputs, labels = network()
    voting = ablate(model, width=2)
    inside, outside = (
        certify("ablation", one, inputs, labels, "patch:1", **given)
        for one, given in ((model, {"width": 2}), (voting, {}))
    )
    assert torch.equal(inside.margin, outside.margin)
    assert outside.claim == "of the model that votes over bands of width 2, not of the one inside"
    with pytest.raises(InputError, match=r"over bands of 2 was made with width=2; got width=5"):
        certify("ablation", voting, inputs, labels, "patch:1", width=5)
    data, threat = tb.LabelledSet(inputs, labels), tb.Threat.parse("patch:1")
    subject = Subject(model=voting, data=data, threats={"patch:1": threat})
    assert certifiers(subject, threat, "quick") == (["ablation"], "")
    unit = WorkUnit(step="p", shard=0, kind="proof", positions=(0, 3, 5), key=0, method="ablation", threat="patch:1")
    assert [row.found for row in execute(unit, subject).rows] == outside.certified[[0, 3, 5]].tolist()
    told, _ = certifiers(subject, tb.Threat.parse("linf:0.1"), "quick")
    assert told == []
    plain = certifiers(Subject(model=model, data=data, threats={"patch:1": threat}), threat, "quick")
    assert plain == ([], "no proof: no certifier serves patch")


def test_what_cannot_vote_is_refused_in_a_sentence():
    model, inputs, labels = network()
    with pytest.raises(UnsupportedError, match="ablation serves the goal misclassify; got target:3"):
        certify("ablation", model, inputs, labels, "patch:1;goal=target:3")
    with pytest.raises(UnsupportedError, match=r"ablation serves patch; got linf"):
        certify("ablation", model, inputs, labels, "linf:0.1")
    with pytest.raises(InputError, match="votes over ablated pictures already"):
        ablate(ablate(model))
    with pytest.raises(InputError, match="a model that answers by itself"):
        ablate(tb.smooth(model, 0.1))
    for given, said in (({"width": 0}, "`width`"), ({"kind": "row"}, "`kind`"), ({"threshold": 1.0}, "`threshold`")):
        with pytest.raises(InputError, match=said):
            Ablation(**given)
    empty = certify("ablation", model, inputs[:0], labels[:0], "patch:1")
    assert empty.certified.shape == (0,)


def test_votes_are_counted_beyond_what_half_precision_counts_to():
    """Bfloat16 holds whole numbers up to 256, float16 up to 2,048."""
    for dtype, side in ((torch.bfloat16, 20), (torch.float16, 48)):
        body = nn.Sequential(nn.Flatten(), nn.Linear(side * side, 2)).to(dtype)
        with torch.no_grad():
            body[1].weight.zero_(), body[1].bias.copy_(torch.tensor([1.0, 0.0]))
        voting = ablate(tb.wrap(body, box=(0.0, 1.0), input_shape=(1, side, side)), kind="block", width=1)
        assert voting(torch.rand(2, 1, side, side)).tolist() == [[float(side * side), 0.0]] * 2


def test_a_copy_without_an_answer_votes_for_nobody_where_gradients_are_asked_for_too():
    class Silent(nn.Module):
        def forward(self, inputs):
            logits = torch.stack([inputs.flatten(1).sum(1), 1.0 - inputs.flatten(1).sum(1)], 1)
            return torch.where(inputs[:, :, 0, 0] > 0.9, torch.nan, logits)

    voting = ablate(tb.wrap(Silent(), box=(0.0, 1.0), input_shape=(1, 4, 6)), width=2)
    inputs = torch.full((1, 1, 4, 6), 0.95)
    assert voting(inputs).sum(1).tolist() == voting(inputs.requires_grad_()).sum(1).tolist() == [4.0]


class Company(nn.Module):
    """Its rows see each other."""

    def forward(self, inputs):
        total = inputs.flatten(1).sum(1)
        return torch.stack([total - total.mean() + 9.0, total], 1)


class Noisy(nn.Module):
    """Never answers twice alike."""

    def forward(self, inputs):
        total = inputs.flatten(1).sum(1)
        return torch.stack([9.0 + torch.rand_like(total), 0.0 * total], 1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (Company(), "Company answers the same copies otherwise"),
        (Noisy(), "Noisy answers the same copies otherwise"),
        (nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(36, 2)), r"0 \(Dropout\) is in train mode"),
        (nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 2)), r"0 \(BatchNorm2d\) is in train mode"),
    ],
)
def test_a_network_whose_answer_to_a_copy_hangs_on_more_than_the_copy_is_refused(body, said):
    with pytest.raises(UnsupportedError, match=said):
        certify("ablation", body, torch.rand(3, 1, 6, 6), torch.zeros(3).long(), "patch:1", box=(0, 1), width=1)


def test_an_audit_of_the_model_that_votes_is_not_condemned_for_steps_that_it_is_made_of():
    """Counts of votes have no slope; their gradient is a substitute by design."""
    model, inputs, labels = network()
    few = tb.LabelledSet(inputs[:12], labels[:12])
    record = tb.audit(ablate(model, width=2), few, threats=["patch:1"], budget="quick")
    told = {check.name: check for check in record.checks}
    assert told["finite-differences"].verdict == "SKIP"
    assert "numbers of votes" in told["finite-differences"].finding
    assert record.exit_code == 0
    assert record.brackets[0].lower > 0.0
