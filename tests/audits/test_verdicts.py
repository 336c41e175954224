"""What must stop an audit from lying: unsound proofs, ties, masked gradients, random models, missing proofs."""

import copy

import pytest
import torch
from tests.audits.known import linear, verdicts
from tests.audits.planted_nets import blobs, net
from torch import nn

import trustbound as tb
from trustbound.attacks import suites
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.certificates.methods import interval
from trustbound.certificates.specification import LowerBound
from trustbound.model.broken_models import DropoutOn, StopGradient
from trustbound.record.record_file import read_record
from trustbound.record.store import EvidenceRow, Store
from trustbound.report.verdict import judge


def audited(module, threat="linf:0.1", n=40, **options):
    inputs, labels = blobs()
    data = tb.LabelledSet(inputs[:n], labels[:n])
    return tb.audit(tb.wrap(module), data, [threat], **{"budget": "quick", "curve_examples": 0, **options})


def finding(record, name):
    return next(check for check in record.checks if check.name == name)


def test_an_unsound_proof_is_caught_by_an_attack_and_recorded(tmp_path, monkeypatch):
    known = linear(n=30)
    honest = interval.Interval.margins

    def boastful(self, *arguments, **options):
        bound = honest(self, *arguments, **options)
        return LowerBound(value=bound.value.abs() + 100.0, run=bound.value.abs() + 100.0)

    monkeypatch.setattr(interval.Interval, "margins", boastful)
    with pytest.raises(tb.UnsoundError, match="defect of trustbound"):
        tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=0)
    record = read_record(tmp_path)
    assert record.exit_code == 3
    assert finding(record, "disjoint-verdicts").verdict == "FAIL"
    bracket = record.brackets[0]
    # The witnesses stand, whatever was claimed: what is broken is not counted as certified.
    breakable = int((known.correct & ~known.robust).sum())
    assert bracket.broken == breakable > 0
    assert bracket.upper == known.truth
    monkeypatch.undo()
    with pytest.raises(tb.UnsoundError):  # evidence is not forgotten when the same is asked again
        tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=0)


def test_proof_and_attack_do_not_prune_each_other_on_the_control_group(tmp_path):
    known = linear(n=90, low=0.45, high=0.55, wrong=0)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=0)
    assert not [row for row in record.examples if row.verdict == "unknown"]
    with Store.open(tmp_path, Store.asked(tmp_path)) as store:
        kept = {f"{step.threat}/{step.name}": store.rows(f"{step.threat}/{step.name}") for step in record.steps}
    kept[f"{known.threat}/first"] += kept.pop(f"{known.threat}/trial-plain")  # no example is asked the same twice
    del kept[f"{known.threat}/trial-smooth"]
    seen = {step: {row.position for row in rows} for step, rows in kept.items()}
    broke = {step: {row.position for row in rows if row.found} for step, rows in kept.items()}
    control = set.intersection(*(rows for step, rows in seen.items() if "/proof-" in step))
    kinds = {step.kind for step in record.steps}
    assert kinds == {"attack", "proof", "control"}
    assert {step.method for step in record.steps if step.kind == "proof"} == {
        "interval",
        "lipschitz",
        "crown",
    }
    assert len(control) == 50
    settled = {place for place, verdict in enumerate(verdicts(record)) if verdict in ("broken", "certified")}
    assert control & settled == control  # all of it was settled early, and still every proof ran on all of it
    # An attack skips what was broken before it, and not what was proven.
    broken, attacks = set(), [step for step in seen if "/proof-" not in step]
    for step in attacks:
        assert not seen[step] & broken
        assert control - broken <= seen[step]
        broken |= broke[step]
    assert len(attacks) > 1
    assert control & broken
    assert control - broken
    # Outside the control group what is settled is left alone: no step sees more than what was open.
    assert seen[f"{known.threat}/control-square"] == control - broken
    assert 50 <= len(seen[f"{known.threat}/proof-crown"]) < 90


def test_the_cost_counts_everything_that_asked_the_model(tmp_path):
    known = linear(n=24)
    record = tb.audit(known.exact.model, known.data, [known.threat], budget="quick", run=tmp_path, curve_examples=4)
    with Store.open(tmp_path, Store.asked(tmp_path)) as store:
        parts = {name: store.cost(f"{known.threat}/{name}") for name in ("checks-before", "checks-after")}
        parts["curve"] = record.curves[0].cost
        assert parts["curve"].forwards >= store.cost(f"{known.threat}/curve-attack").forwards > 0
        clean = store.cost("clean")
    assert clean.forwards == 24
    assert all(part.forwards > 0 and part.seconds > 0 for part in parts.values())
    searched = sum(step.cost.forwards for step in record.steps)
    answered = record.brackets[0].broken  # each witness is asked once more for the uncertainty under attack
    assert record.cost.forwards == clean.forwards + searched + answered + sum(part.forwards for part in parts.values())


class Level(nn.Module):
    """Large logits whose margin is a unit in their last place: rounding decides who wins."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[2e-5] * 4, [-2e-5] * 4]))
            self.linear.bias.copy_(torch.tensor([1000.0001, 1000.0]))

    def forward(self, inputs):
        return self.linear(inputs)


def test_ties_stay_unknown():
    data = tb.LabelledSet(torch.full((30, 4), 0.9), torch.zeros(30, dtype=torch.int64))
    with torch.no_grad():
        assert int(Level()(torch.full((1, 4), 0.9)).argmax()) == 0
        lowest = Level()(torch.zeros(1, 4))
        assert int(lowest.argmax()) == 0 or float(lowest.diff().abs()) < 2e-4
    record = tb.audit(tb.wrap(Level()), data, ["linf:0.9"], budget="quick", curve_examples=8)
    bracket = record.brackets[0]
    assert set(verdicts(record)) == {"unknown"}
    assert (bracket.lower, bracket.upper, bracket.broken) == (0.0, 1.0, 0)


def test_a_float32_success_within_rounding_is_a_tie():
    from trustbound.attacks import AttackResult
    from trustbound.audits.work_units.verify import verify
    from trustbound.record.cost import Cost
    from trustbound.threat import Threat

    def measured(margins, *, double_margins, inside=True):
        """Verify claimed successes of a model whose outputs are known."""

        class Fixed(nn.Module):
            def __init__(self, values):
                super().__init__()
                self.values = nn.Parameter(torch.tensor(values), requires_grad=False)

            def forward(self, inputs):
                rows = inputs[:, 0].round().long()
                first = 1000.0 + self.values[rows]
                return torch.stack((first, torch.full_like(first, 1000.0)), 1)

        count = len(margins)
        inputs = torch.arange(float(count))[:, None].repeat(1, 2)
        threat = Threat.parse("linf:0.25")
        box = tb.Box(0.0, float(count))
        adversarial = inputs + (0.2 if inside else 0.4)
        found = AttackResult(
            theta=adversarial,
            adversarial=adversarial,
            success=torch.ones(count, dtype=torch.bool),
            size=torch.zeros(count, dtype=torch.float64),
            margin=torch.tensor(margins),
            prediction=torch.ones(count, dtype=torch.int64),
            confidence=torch.ones(count),
            forwards=torch.zeros(count, dtype=torch.int64),
            backwards=torch.zeros(count, dtype=torch.int64),
            queries=torch.zeros(count, dtype=torch.int64),
            cost=Cost(),
        )
        objective = threat.goal.bind(torch.zeros(count, dtype=torch.int64), 2)
        model = tb.wrap(Fixed(margins), box=box)
        double = tb.wrap(Fixed(double_margins).double(), box=box)
        return verify(model, double, threat.perturbations.around(inputs, box), objective, found, 2)

    # clear · within rounding · float64 denies it · not even at the model's dtype
    seen = measured([-1.0, -6.2e-5, -0.5, 0.5], double_margins=[-1.0, -6.2e-5, 0.5, -0.5])
    assert seen.confirmed.tolist() == [True, False, False, False]
    assert seen.tie.tolist() == [False, True, True, True]
    outside = measured([-1.0, -1.0], double_margins=[-1.0, -1.0], inside=False)
    assert outside.confirmed.tolist() == outside.tie.tolist() == [False, False]


def test_a_success_within_rounding_is_counted_as_a_tie_and_not_as_broken():
    verdicts = Verdicts.of(torch.tensor([True, True, True]))
    verdicts.attacked("a", [EvidenceRow(position=0, found=False, tie=True, margin=-1e-9)])
    verdicts.attacked(
        "b",
        [EvidenceRow(position=1, found=True, margin=-1.0, size=0.1), EvidenceRow(position=2, found=False)],
    )
    bracket = verdicts.bracket("linf:0.1", no_proof="", goal="", access="", change="")
    assert (bracket.ties, bracket.unknown, bracket.broken) == (1, 2, 1)
    assert bracket.upper == pytest.approx(2 / 3)


def test_float32_success_that_float64_denies_is_no_success():
    class Rounds(nn.Module):
        """In float32 class 1 wins for bright inputs; in float64 class 0 always does."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)
            with torch.no_grad():
                self.linear.weight.copy_(torch.tensor([[1.0, 0.9, 0.8, 0.7]]))
                self.linear.bias.zero_()

        def forward(self, inputs):
            bright = self.linear(inputs)[:, 0] - 2.0
            wins = bright if inputs.dtype == torch.float32 else bright - 100.0
            return torch.stack((torch.zeros_like(wins), wins), 1)

    data = tb.LabelledSet(torch.full((20, 4), 0.3), torch.zeros(20, dtype=torch.int64))
    with torch.no_grad():
        assert int(Rounds()(torch.full((1, 4), 0.8)).argmax()) == 1
    record = tb.audit(tb.wrap(Rounds()), data, ["linf:0.5"], budget="quick", curve_examples=0)
    bracket = record.brackets[0]
    assert (bracket.broken, bracket.upper) == (0, 1.0)
    assert bracket.ties == bracket.unknown == 20


def test_a_gradient_that_is_one_number_for_all_features_is_climbed():
    class Total(nn.Module):
        """Its gradient is one number seen through an expanded view: nothing may write into it."""

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(4.0))

        def forward(self, inputs):
            bright = inputs.flatten(1).sum(1) - 2.0 + 0.0 * self.scale
            return torch.stack((bright, -bright), 1)

    inputs = torch.full((20, 4), 0.6)
    for threat in ("linf:0.2", "l2:0.4", "l1:0.8"):
        record = tb.audit(
            tb.wrap(Total()),
            tb.LabelledSet(inputs, torch.zeros(20, dtype=torch.int64)),
            [threat],
            budget="quick",
            curve_examples=0,
        )
        assert set(verdicts(record)) == {"broken"}


def test_a_layer_without_a_proof_is_named_and_the_audit_goes_on():
    record = audited(net("mish"), "linf:0.3")
    bracket = record.brackets[0]
    assert bracket.no_proof.startswith("no proof:")
    assert "Mish" in bracket.no_proof
    assert "1" in bracket.no_proof
    assert bracket.lower == bracket.certified == 0
    assert bracket.broken > 0
    assert record.exit_code == 0
    assert "proof" not in {step.kind for step in record.steps}


def test_python_that_no_graph_can_hold_is_a_finding_too():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, inputs):
            outputs = self.linear(inputs)
            return outputs * 2.0 if float(outputs.detach().mean()) > 1e9 else outputs

    torch.manual_seed(0)
    record = audited(Branching())
    assert record.brackets[0].no_proof.startswith("no proof:")
    assert record.brackets[0].lower == 0.0


def test_where_gradients_end_the_search_goes_by_scores():
    record = audited(StopGradient(net(), keep_graph=False), "linf:0.2")
    assert [step.method for step in record.steps if step.kind == "attack"][-1] == "square"
    honest = audited(net(), "linf:0.2")
    assert record.brackets[0].broken >= 0.8 * honest.brackets[0].broken > 0
    assert finding(record, "broken-graph").verdict == "FAIL"
    assert record.exit_code == 3
    (note,) = {event.split(": ", 2)[1] for event in record.events if "refused" in event}
    assert note == "refused"


def test_where_no_attack_by_scores_serves_the_threat_the_audit_still_ends():
    record = audited(StopGradient(net(), keep_graph=False), "l0:2")
    assert record.brackets[0].broken == 0
    assert record.exit_code == 3


def test_a_random_model_is_not_to_be_trusted():
    module = DropoutOn(net(), probability=0.3)
    record = audited(module)
    assert finding(record, "determinism").verdict == "FAIL"
    assert record.exit_code == 3
    again = audited(copy.deepcopy(module))
    assert again.brackets == record.brackets
    assert again.examples == record.examples


def test_a_model_that_is_never_certified_says_what_was_left_out(monkeypatch):
    from trustbound.audits.stages import proving

    monkeypatch.setitem(proving.ACTIVATIONS, "quick", 3)
    record = audited(net(), "linf:0.45")
    assert {step.method for step in record.steps if step.kind == "proof"} == {"interval", "lipschitz"}
    if record.brackets[0].certified == 0:
        assert "crown left out: 64 activations" in record.brackets[0].no_proof


def test_one_certifier_that_refuses_does_not_deny_what_another_proved(monkeypatch):
    from trustbound.certificates.methods import lipschitz

    def refuse(self, *arguments, **options):
        raise tb.UnsupportedError("no proof: planted")

    monkeypatch.setattr(lipschitz.Lipschitz, "margins", refuse)
    record = audited(net(), "linf:0.01")
    assert record.brackets[0].certified > 0
    assert record.brackets[0].no_proof == ""
    assert any("planted" in event for event in record.events)


@pytest.mark.parametrize(
    ("threats", "options", "error", "said"),
    [
        ([], {}, tb.InputError, "at least one threat"),
        (["linf:2"], {}, tb.InputError, "inf"),
        (["l2:0.1"], {"budget": "huge"}, tb.InputError, "quick"),
        (["l1:0.1;access=decisions"], {}, tb.UnsupportedError, "no attack"),
        (["linf:0.1;access=decisions"], {"budget": "autoattack"}, tb.UnsupportedError, "no attack"),
        (["linf:0.1;goal=reduce-confidence:0.4;access=decisions"], {}, tb.UnsupportedError, "decisions do not show"),
        (["linf:0.1;goal=target:9"], {}, tb.InputError, "target"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_kept(tmp_path, threats, options, error, said):
    inputs, labels = blobs()
    with pytest.raises(error, match=said):
        tb.audit(
            tb.wrap(net()),
            tb.LabelledSet(inputs, labels),
            threats,
            run=tmp_path / "run",
            **{"budget": "quick", **options},
        )
    assert not (tmp_path / "run").exists()


def test_what_is_no_labelled_set_is_refused_by_type():
    inputs, labels = blobs()
    with pytest.raises(tb.InputError, match=r"LabelledSet.*tuple"):
        tb.audit(tb.wrap(net()), (inputs, labels), ["linf:0.1"])


def test_one_threat_may_be_given_as_text():
    known = linear(n=8, wrong=0)
    record = tb.audit(known.exact.model, known.data, known.threat, budget="quick", curve_examples=0)
    assert [bracket.threat for bracket in record.brackets] == [known.threat]


class NaNs(nn.Module):
    """Logits that are no numbers for bright inputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, inputs):
        return self.linear(inputs) + torch.where(inputs.sum(1, keepdim=True) > 3.5, torch.nan, 0.0)


@pytest.mark.parametrize(
    ("module", "change", "said"),
    [
        (nn.Linear(5, 4), {}, r"shape \('B', 6\).*RuntimeError"),
        (nn.Linear(6, 3), {}, "classes"),
        (NaNs(), {}, "finite"),
        (nn.Sequential(nn.Linear(6, 4), nn.Flatten(0)), {}, "logits"),
        (nn.Linear(6, 4), {"box": (0.0, 0.5)}, "box"),
        (nn.Linear(6, 4), {"box": (torch.zeros(5).numpy(), torch.ones(5).numpy())}, "broadcast"),
    ],
    ids=["shape", "classes", "NaN", "no logits", "outside the box", "box of another shape"],
)
def test_examples_that_the_model_cannot_serve_are_refused(module, change, said):
    inputs, labels = blobs()
    with pytest.raises(tb.InputError, match=said):
        tb.audit(tb.wrap(module, **change), tb.LabelledSet(inputs, labels), ["linf:0.1"], budget="quick")


def test_a_suite_in_which_only_controls_serve_is_no_search():
    with pytest.raises(tb.UnsupportedError, match="no attack"):
        suites.suite("quick", tb.Threat.parse("l1:0.1;access=decisions"))


@pytest.mark.parametrize(
    ("budget", "access", "name"),
    [
        ("quick", "scores", "square"),
        ("quick", "decisions", "hopskipjump"),
        ("standard", "decisions", "hopskipjump"),
        ("thorough", "decisions", "hopskipjump"),
    ],
)
def test_without_gradients_the_query_attack_searches_everything(budget, access, name):
    stages = suites.suite(budget, tb.Threat.parse(f"linf:0.1;access={access}"))
    assert [(stage.attack, stage.share) for stage in stages if not stage.control] == [(name, 1.0)]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_decisions_alone_give_a_bracket_around_the_truth(norm):
    known = linear(norm=norm, n=40)
    record = tb.audit(known.exact.model, known.data, f"{known.threat};access=decisions", budget="standard")
    bracket = record.brackets[0]
    assert bracket.access == "decisions"
    assert bracket.lower <= known.truth <= bracket.upper <= known.truth + 0.1 < record.clean_accuracy
    assert [step.method for step in record.steps if step.kind == "attack"] == ["hopskipjump"]
    assert 0 < record.steps[0].cost.queries < 6_000 * 40
    assert record.steps[0].cost.backwards == 0
    broken = [row == "broken" for row in verdicts(record)]
    assert not any(one and robust for one, robust in zip(broken, known.robust.tolist(), strict=True))


def test_examples_that_the_goal_does_not_concern_are_out_of_its_reach():
    """Of the wanted class already, or not of the class that is to be changed: nothing is left to be reached."""
    torch.manual_seed(3)
    inputs = torch.rand(60, 4)
    module = nn.Linear(4, 3)
    labels = module(inputs).argmax(dim=1).detach()
    data = tb.LabelledSet(inputs, labels)
    wanted = int(labels.mode().values)
    other = next(int(label) for label in labels.unique() if int(label) != wanted)
    for goal, settled in (
        (f"target:{wanted}", labels == wanted),
        (f"source:{other},target:{wanted}", labels != other),
    ):
        record = tb.audit(module, data, [f"linf:0.2;goal={goal}"], budget="quick", curve_examples=0)
        by = [row.settled_by == "not-concerned" for row in record.examples]
        assert by == settled.tolist()
        assert record.brackets[0].certified >= int(settled.sum())
        assert sum(step.settled for step in record.steps) == 60 - record.brackets[0].unknown
        (claim,) = judge(record).claims
        said = " ".join(claim.sentences)
        assert f"{int(settled.sum())} of these needed no proof: the goal does not concern them" in said
        assert "classified correctly when nothing is changed, and out of reach" in said


def test_how_well_the_search_saw_is_of_no_account_where_nothing_is_unknown():
    """A network that is constant on the box, without any gradient there: every example is proven all the same."""
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        module[0].bias.fill_(-10.0)
        module[2].bias.copy_(torch.tensor([1.0, -1.0]))
    inputs = torch.rand(60, 2) * 0.4 + 0.6
    wrapped = tb.wrap(module, box=(-1.0, 1.0))
    record = tb.audit(wrapped, tb.LabelledSet(inputs, [0] * 60, box=(-1.0, 1.0)), ["linf:0.1"], curve_examples=0)
    (bracket,) = record.brackets
    assert (bracket.unknown, bracket.certified) == (0, 60)
    failed = {check.name for check in record.checks if check.verdict == "FAIL"}
    assert "gradient-rate" in failed
    assert all(check.severity == "note" for check in record.checks if check.verdict == "FAIL")
    assert record.exit_code == 0
