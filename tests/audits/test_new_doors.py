"""What a hostile reader found behind the doors for other sets, other models and goals of one's own."""

import contextlib
import dataclasses
import os
import pickle
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import nn

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.attacks.suites import suite
from trustbound.cli.main import cli
from trustbound.errors import InputError
from trustbound.model.broken_models import StopGradient
from trustbound.model.wrapping import Adaptation
from trustbound.record.store import Store
from trustbound.threat import Misclassify, NormBall, Objective, Threat


def digits(count=40):
    return tb.load_data("digits", limit=count)


def scores(inputs):
    return inputs.reshape(len(inputs), -1) @ np.linspace(-1.0, 1.0, 640).reshape(64, 10)


def test_a_run_directory_is_not_given_to_functions_that_nothing_tells_apart(tmp_path):
    model = tb.wrap(lambda inputs: scores(inputs))
    threat = ["linf:0.05;access=scores"]
    with pytest.raises(InputError, match="its evidence would pass for another's"):
        tb.audit(model, digits(), threat, budget="quick", run=tmp_path / "run")
    named = tb.wrap(scores, sha256="of the service")
    assert tb.audit(named, digits(), threat, budget="quick", run=tmp_path / "run").model.sha256 == "of the service"


def test_a_function_in_a_file_is_told_by_the_file_and_resumes(tmp_path):
    source = "import numpy as np\ndef scores(x):\n    return x.reshape(len(x), -1) @ np.ones((64, 10)) * {}\n"
    (tmp_path / "one.py").write_text(source.format(1))
    first = tb.load_model(f"{tmp_path}/one.py:scores")
    again = tb.load_model(f"{tmp_path}/one.py:scores")
    (tmp_path / "one.py").write_text(source.format(2))
    other = tb.load_model(f"{tmp_path}/one.py:scores")
    assert first.identified
    assert first.sha256 == again.sha256 != other.sha256


class OnTheLattice:
    """Rejects whatever is no digit of sixteen grey levels: no small change passes."""

    def __call__(self, inputs):
        return ((inputs * 16 - (inputs * 16).round()).abs() > 1e-4).flatten(1).any(dim=1)


@pytest.mark.parametrize("threat", ["linf:0.1", "rotation:20"])
def test_what_a_detector_rejects_is_no_failure_of_the_search(threat):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    train = tb.load_data("digits", split="train")
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(train.inputs), train.labels).backward()
        optimizer.step()
    model = tb.wrap(module, adaptation=Adaptation(detector=OnTheLattice()))
    record = tb.audit(model, digits(60), [threat], budget="quick", curve_examples=0)
    loud = {check.name for check in record.checks if check.verdict == "FAIL"}
    assert not loud & {"silent-success", "transfer-success"}
    assert record.exit_code == 0


class Own:
    """A goal whose margin is whatever it is made with."""

    name = "own"
    silenced = False

    def __init__(self, margin):
        self.made = margin

    def bind(self, labels, classes):
        return Objective(self, labels)

    def concerns(self, labels):
        return torch.ones_like(labels, dtype=torch.bool)

    def margin(self, outputs, labels, targets):
        return self.made(outputs)


@pytest.mark.parametrize(
    ("margin", "came"),
    [
        (lambda outputs: outputs[:, 0].mean(), r"gave \(\) torch.float32"),
        (lambda outputs: outputs[:, :1], r"gave \(3, 1\)"),
        (lambda outputs: outputs[:, 0] > 0, "gave .* torch.bool"),
        (lambda outputs: outputs[:, 0].long(), "gave .* torch.int64"),
        (lambda outputs: outputs[:, 0].detach().numpy(), "gave ndarray"),
    ],
)
@pytest.mark.parametrize("name", ["pgd", "square"])
def test_a_margin_that_is_no_number_for_each_example_is_refused(name, margin, came):
    model = tb.wrap(nn.Linear(4, 3))
    threat = Threat(NormBall("linf", 0.1), Own(margin))
    with pytest.raises(InputError, match=f"one number for each example.*{came}"):
        tb.attack(name, model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), threat)


def test_a_goal_without_words_is_called_by_its_name():
    assert str(Threat(NormBall("linf", 0.1), Own(lambda outputs: outputs[:, 0]))) == "linf:0.1;goal=own"


def test_scores_that_are_shifted_far_keep_their_differences():
    weights = np.random.default_rng(0).normal(size=(36, 3))

    def shifted(inputs):
        return inputs.astype("f8") @ weights + 1e8

    inputs = torch.rand(200, 36, generator=torch.Generator().manual_seed(0))
    decided = torch.from_numpy(shifted(inputs.numpy()).argmax(1))
    assert torch.equal(tb.wrap(shifted)(inputs).argmax(1), decided)
    record = tb.audit(tb.wrap(shifted), tb.LabelledSet(inputs, decided), ["linf:0;access=scores"], budget="quick")
    assert record.clean_accuracy == 1.0
    assert record.brackets[0].broken == 0


def test_a_classifier_that_counts_from_one_is_refused():
    train = tb.load_data("digits", split="train")
    inputs, labels = train.inputs[:300].flatten(1).numpy(), train.labels[:300].numpy()
    machine = LogisticRegression(max_iter=300).fit(inputs, labels + 1)
    with pytest.raises(InputError, match=r"labels count classes 0\.\.9; LogisticRegression names its own"):
        tb.wrap(machine)


@pytest.mark.parametrize("budget", ["quick", "standard", "thorough"])
def test_scores_are_used_where_a_set_has_parameters_of_its_own(budget):
    names = [stage.attack for stage in suite(budget, Threat.parse("rotation:10;access=scores"))]
    assert names[0] == "random"
    assert "square" in names


def test_where_no_gradient_flows_a_set_of_parameters_is_searched_by_scores():
    torch.manual_seed(0)
    model = tb.wrap(StopGradient(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), keep_graph=False))
    inputs = torch.rand(30, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = tb.LabelledSet(inputs, model(inputs).argmax(1))
    record = tb.audit(model, data, ["rotation:30"], budget="quick", curve_examples=0)
    assert "scores" in [step.name for step in record.steps]


def test_the_smooth_backward_pass_is_tried_under_sets_of_parameters_too():
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 3))
    inputs = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        data = tb.LabelledSet(inputs, module(inputs).argmax(1))
    record = tb.audit(module, data, ["rotation:3"], budget="quick", curve_examples=0)
    assert {"trial-smooth", "trial-plain"} <= {step.name for step in record.steps}


def test_a_loss_without_a_place_for_targets_serves_every_goal():
    model = tb.wrap(nn.Linear(4, 3))
    inputs, labels = torch.rand(5, 4), torch.zeros(5, dtype=torch.int64)

    def loss(logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none")

    for name, threat in (("apgd-t", "linf:0.3"), ("pgd", "linf:0.3;goal=target:2"), ("pgd", "linf:0.3")):
        assert len(tb.attack(name, model, inputs, labels, threat, loss=loss, steps=3).success) == 5
    with pytest.raises(InputError, match="`loss` must be a name or a function"):
        tb.attack("pgd", model, inputs, labels, Threat(NormBall("linf", 0.3), Misclassify()), loss=3)


def test_arrays_of_any_layout_and_byte_order_are_read():
    model = tb.wrap(nn.Linear(4, 3))
    inputs = np.random.default_rng(0).random((5, 4))
    labels = np.zeros(5, dtype=np.uint16)
    plain = tb.attack("bim", model, inputs, labels.astype(np.int64), "linf:0.2")
    for values in (inputs[:, ::-1][:, ::-1], inputs.astype(">f8"), np.asfortranarray(inputs)):
        found = tb.attack("bim", model, values, labels[::-1], "linf:0.2", ids=np.arange(5))
        assert np.array_equal(found.adversarial, plain.adversarial)
    with pytest.raises(InputError, match="`labels` must be int64"):
        tb.attack("bim", model, inputs, labels.astype(str), "linf:0.2")


@pytest.mark.parametrize("text", ["rotation:10", "translation:1"])
def test_places_with_limits_of_their_own_are_not_moved(text):
    low = np.zeros((1, 3, 3))
    low[0, 1, 1] = 0.5
    model = tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)), box=(low, np.ones((1, 3, 3))))
    with pytest.raises(InputError, match="one limit for all places of a channel"):
        tb.attack("pgd", model, torch.full((2, 1, 3, 3), 0.7), torch.zeros(2, dtype=torch.int64), text)


def test_probabilities_are_no_fault_where_no_gradient_is_used():
    train = tb.load_data("digits", split="train")
    machine = LogisticRegression(max_iter=3000, C=100.0).fit(train.inputs.flatten(1).numpy(), train.labels.numpy())

    def chances(inputs):
        return machine.predict_proba(inputs.reshape(len(inputs), -1))

    record = tb.audit(tb.wrap(chances), digits(), ["linf:0.1;access=scores"], budget="quick", curve_examples=0)
    assert record.exit_code == 0


def forest(**params):
    train = tb.load_data("digits", split="train")
    return RandomForestClassifier(6, random_state=0, **params).fit(train.inputs.flatten(1).numpy(), train.labels)


def test_an_estimator_and_its_copy_from_a_pickle_are_the_same_model(tmp_path):
    """A pickle of a copy has other bytes than a pickle of what it is a copy of: a run was refused to go on."""
    first = forest()
    again = pickle.loads(pickle.dumps(first))
    assert pickle.dumps(first) != pickle.dumps(again)
    assert tb.wrap(first).sha256 == tb.wrap(again).sha256 != tb.wrap(forest(max_depth=3)).sha256
    asked = {"budget": "quick", "curve_examples": 0, "run": tmp_path / "run"}
    record = tb.audit(tb.wrap(first), digits(), ["linf:0.05;access=scores"], **asked)
    assert tb.audit(tb.wrap(again), digits(), ["linf:0.05;access=scores"], **asked).created == record.created


def test_what_a_classifier_shows_can_be_chosen():
    machine = forest()
    train = tb.load_data("digits", split="train")
    line = RidgeClassifier().fit(train.inputs.flatten(1).numpy(), train.labels)
    scored, decided = tb.wrap(machine, shows="scores"), tb.wrap(machine, shows="decisions")
    inputs = digits().inputs
    assert (scored.shows, decided.shows, tb.wrap(line).shows) == ("scores", "decisions", "decisions")
    assert torch.equal(decided(inputs).argmax(1), scored(inputs).argmax(1))
    assert set(decided(inputs).unique().tolist()) == {0.0, 1.0}
    for given, more, words in (
        (line, {"shows": "scores"}, "RidgeClassifier has no predict_proba"),
        (machine, {"shows": "logits"}, "shows decisions or scores"),
        (machine, {"shows": "scores", "classes": 7}, "`classes` must be the 10"),
        (machine, {"gradient": scores}, "belongs to a function of scores"),
        (scored, {"shows": "decisions"}, "`shows` of a model that is wrapped already"),
    ):
        with pytest.raises(InputError, match=words):
            tb.wrap(given, **more)


STANDING = """
import torch, trustbound as tb
from sklearn.ensemble import RandomForestClassifier
train = tb.load_data("digits", split="train")
fitted = RandomForestClassifier(4, random_state=0).fit(train.inputs.flatten(1).numpy(), train.labels)
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
class Scorer:
    factor = 2.0
    def __call__(self, inputs):
        return self.factor * inputs.reshape(len(inputs), -1)[:, :10]
scorer = Scorer()
table = {"fitted": fitted}
"""


def test_a_model_that_stands_in_a_module_is_found_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "standing_models.py").write_text(STANDING)
    monkeypatch.syspath_prepend(str(tmp_path))
    for place in ("standing_models", f"{tmp_path}/standing_models.py"):
        assert tb.load_model(f"{place}:fitted").shows == "scores"
        assert tb.load_model(f"{place}:fitted", shows="decisions").shows == "decisions"
        assert isinstance(tb.load_model(f"{place}:net").module, nn.Sequential)
        assert tb.load_model(f"{place}:scorer").shows == "scores"
        for name, words in (("table", "it is a dict"), ("nothing", "there is none of that name")):
            with pytest.raises(InputError, match=words):
                tb.load_model(f"{place}:{name}")
        with pytest.raises(InputError, match="is a model already and takes no arguments"):
            tb.load_model(f"{place}:fitted", arguments={"trees": 3})
    line = ["--data", "digits", "--limit", "30", "--threat", "linf:0.05", "--access", "scores", "--budget", "quick"]
    line = ["audit", "standing_models:fitted", *line, "--curve", "0", "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code in (0, 3), done.output
    # The same in another process: what a file's own classes are called must not depend on it.
    code = f"import trustbound as tb; print(tb.load_model('{tmp_path}/standing_models.py:scorer').sha256)"
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda ball: Threat("linf:0.1"), r"`perturbations` of a Threat must be a set .*got 'linf:0.1'.*Threat\.parse"),
        (lambda ball: Threat(ball, "target:3"), "`goal` of a Threat must be a goal.*got 'target:3'"),
        (lambda ball: Threat(ball, Misclassify), "`goal` of a Threat must be a goal"),
        (lambda ball: Threat(ball, access="scores"), "`access` of a Threat must be a level of Access.*got 'scores'"),
    ],
)
def test_a_threat_of_parts_that_are_none_is_refused_in_a_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make(NormBall("linf", 0.1))


WRONG = [None, "x", 3.5, -1, [], {}, object(), True, float("nan"), [3], ("a",), 31, b"x"]


@pytest.mark.parametrize("row", ATTACKS, ids=lambda row: row.name)
def test_a_number_of_another_kind_is_refused_in_a_sentence_or_served(row):
    """`grid` took values=31 for a list, `square` a negative share for a power."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    inputs, labels = torch.rand(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    names = {field.name for field in dataclasses.fields(ATTACKS.load(row.name)) if field.init}
    few = {name: value for name, value in {"steps": 2, "draws": 5, "tries": 20, "passes": 1}.items() if name in names}
    kind = next((norm for norm in row.norms if norm != "l0"), "brightness")
    for name in sorted(names):
        for wrong in WRONG:
            with contextlib.suppress(tb.TrustboundError):
                tb.attack(row.name, net, inputs, labels, f"{kind}:0.1", **{**few, name: wrong})


@pytest.mark.parametrize("values", [31, "31", 3.5, (3, "a"), (0,), (2.5,)])
def test_the_values_of_a_grid_are_counts(values):
    with pytest.raises(InputError, match="`values` must be"):
        tb.attack("grid", nn.Linear(4, 3), torch.rand(2, 4), torch.zeros(2).long(), "brightness:0.5", values=values)
    found = tb.attack("grid", nn.Linear(4, 3), torch.rand(2, 4), torch.zeros(2).long(), "brightness:0.5", values=[3])
    assert int(found.forwards.max()) <= 5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net, data: tb.audit(net, data, 3), "at least one threat.*got 3"),
        (lambda net, data: tb.audit(net, data, ["linf:0.1"], budget=["quick"]), "the budget must be one of"),
        (lambda net, data: tb.audit(net, data, ["linf:0.1"], run=3), "`run` must be a directory's path"),
        (lambda net, data: tb.audit(net, data, ["linf:0.1"], seed="a"), "`seed` must be a whole number"),
        (lambda net, data: tb.audit(net, data, ["linf:0.1"], training=3), "`training` must be a LabelledSet"),
        (lambda net, data: tb.attack(None, net, data.inputs, data.labels, "linf:0.1"), "an attack is a name.*got None"),
        (lambda net, data: tb.attack("pgd", net, data.inputs, data.labels, "linf:0.1", generator=3), "`generator`"),
        (lambda net, data: tb.attack("pgd", net, data.inputs, data.labels, "linf:0.1", watch=3), "`watch`"),
        (lambda net, data: tb.wrap(net, adaptation=3), "`adaptation` must be an Adaptation"),
        (lambda net, data: tb.wrap(net, output=3.5), "`output` must be a position"),
        (lambda net, data: tb.Adaptation(draws="x"), "`draws` must be a whole number"),
        (lambda net, data: tb.Adaptation(detector=3), "`detector` must be a function"),
        (lambda net, data: tb.Box("a", "b"), "a box is a pair of limits"),
        (lambda net, data: tb.load_data(3), "data must be a name"),
        (lambda net, data: tb.load_data("digits", limit="x"), "`limit` must be a whole number"),
        (lambda net, data: tb.save_model(net, 3), "save_model takes a model and a path"),
    ],
)
def test_an_argument_of_another_kind_is_refused_in_a_sentence(call, words):
    with pytest.raises(InputError, match=words):
        call(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits())


class Lower(Own):
    """A goal of the caller's own, told by one number."""

    name = "lower"
    least = 0.5

    def __init__(self, by):
        self.by = by

    def margin(self, outputs, labels, targets):
        return outputs.gather(1, labels[:, None])[:, 0] - self.by


def test_two_goals_of_ones_own_with_the_same_text_do_not_share_a_run(tmp_path):
    """The text of a goal says nothing of what it does; evidence of one is none of the other."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    data = digits(24)
    asked = {"budget": "quick", "curve_examples": 0, "run": tmp_path / "run"}
    with torch.no_grad():
        data = tb.LabelledSet(data.inputs, net(data.inputs).argmax(1))

    def threat(goal):
        return [Threat(NormBall("linf", 0.02), goal)]

    first = tb.audit(net, data, threat(Lower(0.0)), **asked)
    assert tb.audit(net, data, threat(Lower(0.0)), **asked).created == first.created
    for other in (Lower(-3.0), Own(lambda outputs: outputs[:, 0] + 1.0)):
        with pytest.raises(tb.RecordError, match="holds another audit"):
            tb.audit(net, data, threat(other), **asked)
    with pytest.raises(InputError, match="tells its threats apart by their text"):
        tb.audit(net, data, [*threat(Lower(0.0)), *threat(Lower(1.0))], budget="quick")
    # Code counts too: two functions of one name.
    one, two = (Own(eval(f"lambda outputs: outputs[:, 0] + {by}")) for by in (1.0, 2.0))
    asked["run"] = tmp_path / "functions"
    tb.audit(net, data, threat(one), **asked)
    with pytest.raises(tb.RecordError, match="holds another audit"):
        tb.audit(net, data, threat(two), **asked)
    with pytest.raises(InputError, match="tells goals apart by what they do"):
        tb.audit(net, data, threat(Lower(threading.Lock())), **asked)


def test_a_predictor_with_a_gradient_of_its_own_has_none_to_compile():
    weights = np.random.default_rng(0).normal(size=(4, 3)).astype("f4")
    model = tb.wrap(lambda x: x @ weights, gradient=lambda x, w: w @ weights.T)
    inputs = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    labels = model(inputs).argmax(1)
    plain, asked = (
        tb.attack("pgd", model, inputs, labels, "linf:0.3", compile=compiled, batch_size=8)
        for compiled in (False, True)
    )
    assert torch.equal(plain.adversarial, asked.adversarial)
    assert asked.success.any()


def test_units_that_an_older_version_cut_otherwise_are_gone_on_with(tmp_path):
    """Its control group was larger, so that its units held other examples: none may be passed over, none be lost."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    data = digits(60)
    with torch.no_grad():
        data = tb.LabelledSet(data.inputs, net(data.inputs).argmax(1))
    asked = {"budget": "quick", "curve_examples": 0, "run": tmp_path / "run", "unit_size": 16}
    threat = "linf:0.02"
    whole = tb.audit(net, data, [threat], **asked)
    step = f"{threat}/trial-smooth"

    def kept():
        with Store.open(tmp_path / "run", Store.asked(tmp_path / "run")) as store:
            return {row.position: row.found for row in store.rows(step)}

    before = kept()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "audit.sqlite")) as base, base:
        base.execute("DELETE FROM unit WHERE step = ? AND shard = 3", (step,))
        base.execute("DELETE FROM evidence WHERE step = ? AND shard = 3", (step,))
        for shard in (0, 2):
            base.execute(
                "DELETE FROM evidence WHERE step = ? AND position = "
                "(SELECT min(position) FROM evidence WHERE step = ? AND shard = ?)",
                (step, step, shard),
            )
    assert len(kept()) == len(before) - 14
    again = tb.audit(net, data, [threat], **asked)
    assert kept() == before
    assert [row.verdict for row in again.examples] == [row.verdict for row in whole.examples]
