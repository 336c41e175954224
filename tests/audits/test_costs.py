"""What an audit says that it cost is what a count outside of it says."""

import collections
import traceback
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

import trustbound as tb
from trustbound.errors import InputError
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.record.cost import Spent
from trustbound.record.store import Store

#: What is asked before the evidence, anew by every process that goes on with a run: no step is charged for it.
PREPARATION = {
    "compatibility.py": "two examples, to see whether model and data fit",
    "same_answers": "eight examples, to see whether a run goes on with the same model",
    "pricing.py": "timed passes, as many as the clock allows",
    "float64_copy.py": "two examples, to see whether there is a float64 copy",
    "reading.py": "random points, to compare the list of operations with the module",
}


class Counted(nn.Module):
    """Counts the rows it is asked about by who asks, wherever its copies are."""

    seen: ClassVar[collections.Counter] = collections.Counter()
    past: ClassVar[collections.Counter] = collections.Counter()  # calls that did not come through an oracle

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        if not isinstance(inputs, FakeTensor):  # the exporter follows the code without numbers
            stack = traceback.extract_stack()
            named = {frame.name for frame in stack} | {frame.filename.rpartition("/")[2] for frame in stack}
            if "oracle.py" not in named:
                self.past[next((name for name in (*PREPARATION, "checks") if name in str(stack)), "unknown")] += 1
            self.seen[next((name for name in PREPARATION if name in named), "evidence")] += len(inputs)
        return self.inner(inputs)


@pytest.mark.parametrize(("draws", "access"), [(1, "gradients"), (3, "scores")])
def test_a_count_outside_agrees_with_the_record(draws, access, tmp_path):
    """Clean pass, trial, stages, their checks in both precisions, curve, uncertainty and checks: to the query."""
    torch.manual_seed(0)
    net = Counted(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))).eval()
    inputs = torch.rand(12, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = net.inner(inputs).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    Counted.seen.clear()
    Counted.past.clear()
    model = wrap(net, adaptation=Adaptation(draws=draws))
    threat = f"linf:0.1;access={access}"
    record = tb.audit(model, tb.LabelledSet(inputs, labels), [threat], budget="quick", run=tmp_path / "run")
    seen = dict(Counted.seen)
    assert record.cost.forwards == seen.pop("evidence")
    # And it says what for, in the whole and in every step.
    for cost in (record.cost, *(step.cost for step in record.steps), *(curve.cost for curve in record.curves)):
        assert sum(spent.forwards for spent in cost.purposes.values()) == cost.forwards
        assert sum(spent.backwards for spent in cost.purposes.values()) == cost.backwards
    told = record.cost.purposes
    assert set(told) >= {"clean", "search", "recheck", "checks", "uncertainty"}
    assert told["clean"] == Spent(scores=12 * draws)
    assert (told["search"].gradients > 0) == (access == "gradients")
    assert told["recheck"].scores > told["uncertainty"].scores > 0
    # A step's cost is that of its examples, one by one.
    with Store.open(tmp_path / "run", Store.asked(tmp_path / "run")) as store:
        for step in record.steps:
            if step.kind != "proof":
                rows = store.rows(f"{step.threat}/{step.name}")
                assert sum(row.forwards for row in rows) == step.cost.forwards, step.name
    assert seen.keys() <= PREPARATION.keys()
    # Nothing in a search, and nothing that measures again, asks the model past the oracle.
    assert set(Counted.past) <= {"float64_copy.py", "reading.py"}
    assert seen["compatibility.py"] <= 2 * draws
    assert seen["same_answers"] <= 8 * draws


@pytest.mark.parametrize("rows", [0, -1, 2.5, True])
def test_a_batch_size_that_is_none_is_refused_before_the_first_call(rows):
    net = Counted(nn.Linear(8, 3))
    Counted.seen.clear()
    data = tb.LabelledSet(torch.rand(4, 8), [0, 1, 2, 0])
    with pytest.raises(InputError, match="`batch_size` must be a whole number"):
        tb.audit(wrap(net), data, ["linf:0.1"], budget="quick", batch_size=rows)
    assert not Counted.seen
