"""What "the same" means: on exact arithmetic no bit depends on the batch, the order or the neighbours."""

import dataclasses

import pytest
import torch

import trustbound as tb
from trustbound.model.dyadic import dyadic_network, exact_bits

#: Multiples of 2^-6 as inputs and as epsilon, so that single steps of the threat stay on the grid of the network.
GRID = 6


@pytest.fixture(scope="module")
def exact():
    """A network whose float32 sums are exact, with examples on its grid, a few of them mislabelled."""
    model = dyadic_network(input_shape=(1, 4, 4), widths=(12,), classes=4, grid=10, seed=2)
    assert max(exact_bits(model, 10)) <= 24
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randint(0, 2**GRID + 1, (40, 1, 4, 4), generator=generator) / 2**GRID
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    return model, tb.LabelledSet(inputs, labels)


def audited(model, data, **options):
    options = {"budget": "quick", "curve_examples": 6, **options}
    return tb.audit(model, data, [f"linf:{3 / 2**GRID}"], **options)


def by_index(record):
    """Verdicts and proofs of each example, by its row in the whole set."""
    return {
        row.index: (row.verdict, row.settled_by, row.size, row.adversarial_prediction, row.certified_margin)
        for row in record.examples
    }


def timeless(record):
    """The record without what a clock says."""
    steps = tuple(dataclasses.replace(step, cost=dataclasses.replace(step.cost, seconds=0.0)) for step in record.steps)
    curves = tuple(dataclasses.replace(one, cost=dataclasses.replace(one.cost, seconds=0.0)) for one in record.curves)
    return dataclasses.replace(
        record,
        created="",
        backward_cost=0.0,
        steps=steps,
        curves=curves,
        cost=dataclasses.replace(record.cost, seconds=0.0),
        events=tuple(event for event in record.events if not event.startswith("wall clock")),
    )


def test_the_batch_size_changes_no_verdict(exact):
    model, data = exact
    records = {size: audited(model, data, batch_size=size) for size in (1, 7, 64, 1000)}
    first = by_index(records[1])
    assert {verdict for verdict, *_ in first.values()} >= {"broken", "certified"}
    for record in records.values():
        assert by_index(record) == first
        assert record.brackets == records[1].brackets
        assert record.curves[0].upper == records[1].curves[0].upper
        assert record.curves[0].lower == records[1].curves[0].lower


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_the_examples_changes_no_verdict(exact, seed):
    model, data = exact
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    shuffled = data.take(order)
    assert shuffled.indices.tolist() == order.tolist()
    plain, mixed = audited(model, data), audited(model, shuffled)
    assert by_index(mixed) == by_index(plain)
    assert mixed.brackets == plain.brackets
    assert [row.index for row in mixed.examples] == order.tolist()


def test_neighbours_change_no_verdict(exact):
    """Everything is in the control group, so that no share of survivors decides who is attacked."""
    model, data = exact
    rows = torch.arange(3, 40, 3)
    alone, together = by_index(audited(model, data.take(rows))), by_index(audited(model, data))
    for index, (verdict, *_) in alone.items():
        assert verdict == together[index][0]


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_attacks_give_the_same_bits_alone_and_in_any_company(exact, name):
    model, data = exact
    # A uniform start lies on no grid: from the clean input every step stays on it.
    more = {"step_size": 1 / 2**GRID, "random_start": False, "loss": "margin"} if name == "pgd" else {}

    def run(rows, size):
        part = data.take(rows)
        found = tb.attack(
            name,
            model,
            part.inputs,
            part.labels,
            f"linf:{3 / 2**GRID}",
            ids=part.indices,
            batch_size=size,
            steps=8,
            **more,
        )
        return dict(
            zip(
                rows.tolist(),
                zip(found.adversarial, found.success, found.size, found.margin, strict=True),
                strict=True,
            )
        )

    everyone = run(torch.arange(40), 64)
    for rows, size in (
        (torch.arange(40), 1),
        (torch.arange(40), 7),
        (torch.arange(40), 1000),
        (torch.arange(40).flip(0), 64),
        (torch.tensor([5, 17, 30]), 2),
    ):
        for index, (adversarial, success, length, margin) in run(rows, size).items():
            expected = everyone[index]
            assert torch.equal(adversarial, expected[0])
            assert bool(success) == bool(expected[1])
            assert float(length) == float(expected[2])
            assert float(margin) == float(expected[3])


def test_the_same_call_gives_the_same_record(exact):
    model, data = exact
    first, again = audited(model, data), audited(model, data)
    assert timeless(first) == timeless(again)
    other = audited(model, data, seed=1)
    assert other.seed == 1
    assert timeless(other) != timeless(first)


def test_the_control_group_is_drawn_by_the_examples_and_the_seed_alone():
    from trustbound.audits.run import _control_group

    generator = torch.Generator().manual_seed(0)
    data = tb.LabelledSet(torch.rand(3000, 2, generator=generator), torch.zeros(3000, dtype=torch.int64))
    order = torch.randperm(3000, generator=generator)
    shuffled = data.take(order)
    group, mixed = _control_group(data, 7), _control_group(shuffled, 7)
    assert int(group.sum()) == 150
    assert sorted(shuffled.indices[mixed].tolist()) == group.nonzero()[:, 0].tolist()
    assert not torch.equal(group, _control_group(data, 8))
    # A random group, not a run of neighbours: each tenth of the set holds some of it.
    assert all(bool(part.any()) for part in group.split(300))
    assert int(_control_group(data.take(torch.arange(30)), 7).sum()) == 30
