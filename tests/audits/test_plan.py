"""What is announced is what is done: one list of steps is priced and carried out."""

import re

import pytest
import torch
from tests.audits.test_radii import Wide
from torch import nn

import trustbound as tb
from trustbound.audits.planning.plan import plan
from trustbound.audits.planning.schedule import Attacks, Checks, Control, Proof, SecurityCurve, Trial, UntilDry, steps
from trustbound.audits.stages import proving
from trustbound.threat import Threat


@pytest.fixture(scope="module")
def digits():
    training, test = (tb.load_data("digits", split=split) for split in ("train", "test"))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(10):
        for rows in torch.randperm(len(training)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(training.inputs[rows].float()), training.labels[rows]).backward()
            optimiser.step()
    return net.eval().requires_grad_(False), test.stratified(90)


def test_steps_stand_in_the_order_of_their_price():
    found = steps(
        Threat.parse("linf:0.1"), "standard", certifiers=["interval", "lipschitz", "crown"], curve_examples=100
    )
    kinds = [type(step) for step in found if not isinstance(step, Attacks)]
    assert kinds[:3] == [Checks, Trial, Proof]
    assert kinds[-4:] == [Control, Control, SecurityCurve, Checks]
    assert [step.certifier for step in found if isinstance(step, Proof)] == ["interval", "lipschitz", "crown"]
    assert sum(isinstance(step, UntilDry) for step in found) == 1


@pytest.mark.parametrize(
    ("threat", "budget"), [("linf:0.04", "standard"), ("l2:0.4", "quick"), ("rotation:8", "quick")]
)
def test_what_is_done_stands_in_the_plan(digits, threat, budget):
    net, data = digits
    model = tb.wrap(net)
    found = plan(model, data, [Threat.parse(threat)], budget, 20)
    lines = {line.stage: line for line in found.lines}
    record = tb.audit(model, data, [threat], budget=budget, curve_examples=20)
    assert len(record.steps) > 2
    for step in record.steps:
        if step.name.startswith("round-"):
            assert "rounds" in lines
            continue
        name = re.sub(r"-\d+$", "", step.name)
        name = {"trial-smooth": "first"}.get(name, name)  # the first stage does not run on the sample again
        line = lines[name]
        assert line.attack in (step.method, "smooth-pgd")
        assert step.examined <= line.examples
        assert step.cost.forwards <= line.forwards
        assert step.cost.backwards <= line.backwards
    # Checks are priced by experience: at most twice off.
    spent = record.cost.purposes["checks"]
    said = sum(line.backwards for line in found.lines if line.stage.startswith("checks"))
    assert spent.backwards <= 2 * said + 2000
    assert found.likely.seconds > 0
    assert found.likely.seconds <= found.cost.seconds


def proofs(record, name):
    return [step for step in record.steps if step.name.startswith(f"proof-{name}")]


def test_a_dear_certifier_that_proves_nothing_stops_at_its_first_block(digits, monkeypatch):
    net, data = digits
    monkeypatch.setattr(proving, "AT_ONCE", 1)  # the smallest block there is
    record = tb.audit(tb.wrap(Wide(net)), data, ["linf:0.03"], budget="quick", curve_examples=0)
    (only,) = proofs(record, "crown")
    assert only.examined == 8
    (bracket,) = record.brackets
    left = bracket.unknown - 8
    assert left > 0
    assert bracket.no_proof == f"crown proved none of the 8 largest margins and was not run on the other {left}"


@pytest.mark.parametrize("threat", ["linf:0.03", "l2:0.3"])
def test_blocks_lose_next_to_nothing(digits, monkeypatch, threat):
    net, data = digits
    whole = tb.audit(tb.wrap(net), data, [threat], budget="quick", curve_examples=0)
    assert len(proofs(whole, "crown")) == 1
    monkeypatch.setattr(proving, "AT_ONCE", 1)
    record = tb.audit(tb.wrap(net), data, [threat], budget="quick", curve_examples=0)
    blocks = proofs(record, "crown")
    assert len(blocks) > 1
    assert record.brackets[0].certified >= 0.98 * whole.brackets[0].certified > 0
    (control,) = [step for step in blocks if step.name == "proof-crown-control"]
    assert control.settled == 0  # all of them broken
    assert control.examined > 0


def test_a_certificate_of_a_broken_example_is_seen_in_blocks_too(digits, monkeypatch):
    from trustbound.audits.work_units import proof
    from trustbound.certificates import certify

    net, data = digits
    monkeypatch.setattr(proving, "AT_ONCE", 1)

    def boastful(certifier, *arguments, **options):
        found = certify(certifier, *arguments, **options)
        if type(certifier).__name__ == "Crown":
            found.certified.fill_(True)
        return found

    monkeypatch.setattr(proof, "certify", boastful)
    with pytest.raises(tb.UnsoundError, match="certified examples were broken"):
        tb.audit(tb.wrap(net), data, ["linf:0.03"], budget="quick", curve_examples=0)


def test_tighter_proofs_settle_what_the_others_leave(digits, tmp_path):
    """In `thorough`: optimised slopes and branching prove more, and what they refute is broken, and measured again."""
    net, data = digits
    asked = {"curve_examples": 0, "run": tmp_path / "run"}
    record = tb.audit(tb.wrap(net), data, ["linf:0.05"], budget="thorough", **asked)
    quick = tb.audit(tb.wrap(net), data, ["linf:0.05"], budget="quick", curve_examples=0)
    tighter, known = record.brackets[0], quick.brackets[0]
    complete = [step for step in record.steps if step.name.startswith("proof-branch-and-bound")]
    assert sum(step.settled for step in complete) > 0
    assert tighter.certified > known.certified
    assert tighter.unknown < known.unknown / 2
    assert record.exit_code == 0
    # Every number of it is read back, and none is found otherwise.
    again = tb.audit(tb.wrap(net), data, ["linf:0.05"], budget="thorough", **asked)
    assert again.brackets == record.brackets


def test_a_standard_audit_branches_on_small_networks_for_as_long_as_half_is_settled(digits, monkeypatch):
    """The nearest to a proof first, sixteen and then more; nothing on a network of more activations than are few."""
    net, data = digits
    asked = {"budget": "standard", "curve_examples": 0}
    few = tb.audit(tb.wrap(net), data, ["linf:0.08"], **asked)
    blocks = [step for step in few.steps if re.fullmatch(r"proof-branch-and-bound(-\d+)?", step.name)]
    assert 0 < blocks[0].examined <= 16
    assert all(2 * step.settled >= step.examined for step in blocks[:-1])
    monkeypatch.setitem(proving.TIGHTER, "branch-and-bound", {"standard": 5})
    many = tb.audit(tb.wrap(net), data, ["linf:0.08"], **asked)
    assert not [step for step in many.steps if "branch" in step.name]
    assert many.brackets[0].certified <= few.brackets[0].certified
    assert many.brackets[0].unknown > few.brackets[0].unknown


class Gated(nn.Module):
    """A product of two values that both depend on the input: its second is nobody's first operand."""

    def __init__(self):
        super().__init__()
        self.value, self.gate, self.last = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, inputs):
        return self.last(self.value(inputs).relu() * self.gate(inputs).sigmoid())


def test_a_network_with_a_gate_is_audited_to_the_end():
    torch.manual_seed(0)
    net, inputs = Gated().eval().requires_grad_(False), torch.rand(24, 6)
    data = tb.LabelledSet(inputs, net(inputs).argmax(1))
    record = tb.audit(tb.wrap(net), data, ["linf:0.05"], curve_examples=0)
    assert record.brackets[0].certified > 0
    assert not [event for event in record.events if "raised" in event]
    assert record.exit_code == 0


def test_counterexamples_of_a_proof_are_taken_and_measured_again(digits, monkeypatch):
    """With the attacks blinded, branching meets points of its own: the upper bound takes those that hold."""
    from trustbound.attacks import suites
    from trustbound.attacks.suites import Rounds, Stage

    net, data = digits
    weak = (Stage(name="first", attack="square", params={"steps": 1}),)
    monkeypatch.setitem(suites.SUITES, "thorough", weak)
    monkeypatch.setitem(suites._ROUNDS, "thorough", Rounds())
    monkeypatch.setattr(suites, "_SHARED", {})
    record = tb.audit(tb.wrap(net), data, ["linf:0.06"], budget="thorough", curve_examples=0)
    refuted = [step for step in record.steps if step.name.startswith("refuted-branch-and-bound")]
    assert sum(step.settled for step in refuted) > 0
    broken = [row for row in record.examples if row.verdict == "broken" and "refuted-" in row.settled_by]
    assert broken
    assert all(row.size is not None and row.size <= 0.06 + 1e-6 for row in broken)
    assert record.exit_code in (0, 3)


class Gap(nn.Module):
    """x − y as the difference of two logits, so that intervals lose what CROWN keeps."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(2, 2), nn.Linear(2, 2)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))
            self.inner.bias.fill_(1.0)
            self.outer.weight.copy_(torch.tensor([[3.0, -2.0], [0.0, 0.0]]))
            self.outer.bias.copy_(torch.tensor([-1.0, 0.0]))

    def forward(self, inputs):
        return self.outer(torch.relu(self.inner(inputs)))


def test_the_order_of_the_data_hides_no_wrong_certifier(monkeypatch):
    """Examples that intervals prove stand first: the control group of dear proofs is of broken ones all the same."""
    from trustbound.certificates.methods.crown import Crown
    from trustbound.certificates.specification import LowerBound

    honest = Crown.bound

    def boastful(self, graph, region, specification, least):
        found = honest(self, graph, region, specification, least)
        return LowerBound(value=torch.ones_like(found.value), run=torch.ones_like(found.run))

    monkeypatch.setattr(Crown, "bound", boastful)
    monkeypatch.setattr(proving, "AT_ONCE", 1)
    draw = torch.Generator().manual_seed(0)
    far = torch.stack([0.9 + 0.1 * torch.rand(200, generator=draw), 0.05 * torch.rand(200, generator=draw)], 1)
    middle = torch.tensor([0.6, 0.3]) + 0.01 * torch.rand(24, 2, generator=draw)
    near = torch.tensor([0.51, 0.5]).repeat(200, 1)
    inputs = torch.cat([far, middle, near])
    net = Gap()
    with torch.no_grad():
        data = tb.LabelledSet(inputs, net(inputs).argmax(1))
    with pytest.raises(tb.UnsoundError, match="certified examples were broken"):
        tb.audit(tb.wrap(net), data, ["linf:0.05"], budget="standard", curve_examples=0)


class Small(nn.Module):
    """Answers at most eight rows at once."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, inputs):
        if len(inputs) > 8:
            raise RuntimeError("out of memory")
        return self.inner(inputs)


class Told:
    def expect(self, seconds):
        self.expected = dict(seconds)

    def begin(self, step, total):
        pass

    def advance(self, count):
        pass


def test_a_batch_size_holds_in_what_is_tried_before_too():
    torch.manual_seed(0)
    net, inputs = Small(), torch.rand(30, 4)
    with torch.no_grad():
        labels = torch.cat([net(row[None]).argmax(1) for row in inputs])
    data, model = tb.LabelledSet(inputs, labels), tb.wrap(net)
    asked = {"budget": "quick", "curve_examples": 4, "batch_size": 8}
    told = Told()
    found = [tb.audit(model, data, ["linf:0.05"], progress=one, **asked) for one in (None, told)]
    assert found[0].brackets == found[1].brackets
    assert sum(told.expected.values()) > 0
    assert plan(model, data, [Threat.parse("linf:0.05")], "quick", 4, batch_size=8).likely.seconds > 0
