"""Regression: closed forms of linear regressors, proofs against attacks, and what a hostile user hands in."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates.graph import read
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.losses import loss
from trustbound.tasks import Regression

DUAL = {"linf": 1, "l2": 2, "l1": math.inf}


def linear(outputs=1, features=6, seed=0, scale=1.0, dtype=torch.float32):
    """A linear regressor, and its weights (K, F)."""
    torch.manual_seed(seed)
    layer = nn.Linear(features, outputs).to(dtype)
    with torch.no_grad():
        layer.weight.mul_(scale)
        layer.bias.mul_(scale)
    return layer, layer.weight.detach().double()


def examples(layer, count=8, off=0.3, seed=1, scale=1.0):
    """Inputs well inside of a wide box, and targets that the layer misses by up to `off`."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, layer.in_features, generator=generator) - 0.5
    said = layer(inputs.to(layer.weight.dtype)).detach().double()
    miss = (2 * torch.rand(said.shape, generator=generator, dtype=torch.float64) - 1) * off * scale
    return inputs, said + miss, miss


def radius(weights, errors, tolerance, norm):
    """By how much each input must change until some output leaves the tolerance, (B,)."""
    length = torch.linalg.vector_norm(weights, DUAL[norm], 1)
    return ((tolerance - errors.abs()) / length).amin(1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_proof_about_a_linear_regressor_is_its_closed_form(norm, outputs):
    layer, weights = linear(outputs, dtype=torch.float64)
    inputs, targets, errors = examples(layer)
    model = tb.wrap(layer, box=(-9.0, 9.0), task=Regression(tolerance=1.0))
    exact = radius(weights, errors, 1.0, norm)
    for name in ("interval", "crown"):
        proof = tb.certify(name, model, inputs.double(), targets, f"{norm}:0.01")
        length = torch.linalg.vector_norm(weights, DUAL[norm], 1)
        proven = 0.01 + tb.Threat.parse(f"{norm}:0.01").perturbations.tolerance(model.box, 6)  # τ is part of the proof
        wanted = (1.0 - errors.abs() - proven * length).amin(1)
        assert (wanted - proof.margin).abs().max() < 1e-6
        found = certified_radius(
            CERTIFIERS.build(name),
            read(model, inputs.double()),
            inputs.double(),
            targets,
            model.box,
            norm,
            cap=50.0,
            steps=40,
            task=model.task,
        )
        assert (found <= exact).all()
        assert ((exact - found) / exact).max() < 1e-6


@pytest.mark.parametrize("row", [row for row in ATTACKS if not row.shared], ids=lambda row: row.name)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_attacks_reach_what_the_closed_form_allows_and_nothing_else(row, norm, outputs):
    if norm not in row.norms or row.name == "smooth-pgd":  # there is nothing to smooth in a linear network
        pytest.skip("not served")
    layer, weights = linear(outputs)
    inputs, targets, errors = examples(layer)
    model = tb.wrap(layer, box=(-9.0, 9.0), task="regression", tolerance=1.0)
    exact = radius(weights, errors, 1.0, norm)
    access = ";access=scores" if row.needs == "decisions" else ""
    beyond, within = 1.3 * float(exact.max()), 0.999 * float(exact.min())
    found = tb.attack(row.name, model, inputs, targets, f"{norm}:{beyond}{access}")
    assert not tb.attack(row.name, model, inputs, targets, f"{norm}:{within}{access}").success.any()
    if row.needs == "decisions":  # it must first meet a wrong answer by chance
        assert not found.success[exact > beyond].any()
        return
    # With several outputs a climb may choose one that stands further off, as with several classes.
    assert found.success.all() if outputs == 1 and row.name != "fgsm" else found.success.any()
    if row.seeks == "smallest":
        assert (found.size >= exact * (1 - 1e-5)).all()
        assert (found.size <= exact * 1.25).all()


class Squeezed(nn.Module):
    """(B, 1) → (B,)."""

    def forward(self, outputs):
        return outputs.squeeze(1)


def test_outputs_of_one_axis_and_of_two_are_one():
    layer, _ = linear()
    inputs, targets, _ = examples(layer)
    flat = nn.Sequential(layer, Squeezed())
    found = []
    for module, told in ((layer, targets), (flat, targets[:, 0]), (layer, targets[:, 0])):
        model = tb.wrap(module, box=(-9.0, 9.0), task="regression:tolerance=1")
        assert model(inputs).shape == (8, 1)
        found.append(tb.attack("pgd", model, inputs, told, "linf:0.75").success.tolist())
    assert found[0] == found[1] == found[2]
    assert 0 < sum(found[0]) < 8
    with pytest.raises(UnsupportedError, match="one number for each example, without a features' axis; keep the axis"):
        tb.certify("crown", tb.wrap(flat, box=(-9.0, 9.0), task=model.task), inputs, targets, "linf:0.4")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_unit_of_the_targets_changes_no_verdict(scale):
    layer, weights = linear(2, scale=scale)
    inputs, targets, errors = examples(layer, count=20, scale=scale)
    model = tb.wrap(layer, box=(-9.0, 9.0), task=Regression(tolerance=scale))
    exact = radius(weights, errors, scale, "linf")
    size = float(exact.median())
    clear = (exact - size).abs() > 0.02 * size
    for name in ("pgd", "apgd"):
        found = tb.attack(name, model, inputs, targets, f"linf:{size}")
        assert not (found.success & (exact > size))[clear].any()
        assert found.success.sum() >= 0.7 * (exact < size).sum()
    proof = tb.certify("crown", model, inputs, targets, f"linf:{size}")
    assert torch.equal(proof.certified[clear], (exact > size)[clear])


def network(dtype=torch.float32, outputs=2, seed=3):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, outputs)).to(dtype)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_no_success_lies_inside_a_proof(norm, dtype):
    """Each example at its own proven radius: every attack, and a thousand points at random."""
    module = network(dtype)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(6, 5, generator=generator)
    model = tb.wrap(module, task="regression:tolerance=0.05")
    targets = model(inputs).detach().double() + 0.02
    for name in [row.name for row in CERTIFIERS if row.audited and row.layers] + ["alpha-crown"] * (
        dtype == torch.float32
    ):
        sizes = certified_radius(
            CERTIFIERS.build(name), read(model, inputs), inputs, targets, model.box, norm, task=model.task
        )
        if name == "crown":
            assert (sizes > 0).any()
        for row in (sizes > 0).nonzero()[:, 0].tolist():
            one, told, size = inputs[row : row + 1], targets[row : row + 1], float(sizes[row])
            assert tb.certify(name, model, one, told, f"{norm}:{0.98 * size}").certified.all()
            for attack in ("pgd", "margin-pgd"):
                assert not tb.attack(attack, model, one, told, f"{norm}:{size}").success.any()
            ball = tb.Threat.parse(f"{norm}:{size}").perturbations.around(one.expand(1000, -1), model.box)
            from trustbound.threat import Random

            points = ball.start(Random(row, torch.arange(1000)), 0)
            assert ((model(points).double() - told).abs() <= 0.05 + 1e-12).all()


def test_what_a_proof_says_is_tight_enough_to_be_of_use():
    module, generator = network(torch.float64), torch.Generator().manual_seed(0)
    inputs = torch.rand(40, 5, generator=generator, dtype=torch.float64)
    model = tb.wrap(module, task="regression:tolerance=0.1")
    targets = model(inputs).detach()
    proof = tb.certify("crown", model, inputs, targets, "linf:0.02")
    found = tb.attack("apgd", model, inputs, targets, "linf:0.02")
    assert (proof.certified | found.success).float().mean() > 0.8


def test_at_exactly_the_tolerance_it_is_right_and_a_tie():
    """A dyadic regressor: 0.5 x against 0, tolerance 0.25."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    model = tb.wrap(layer, task="regression:tolerance=0.25")
    inputs, targets = torch.tensor([[0.5]] * 60), torch.zeros(60)
    record = tb.audit(model, tb.LabelledSet(inputs, targets, task="regression"), ["linf:0"], budget="quick")
    assert record.clean_accuracy == 1.0
    assert (record.brackets[0].broken, record.brackets[0].certified) == (0, 0)
    assert all(row.tie for row in record.examples)


def test_named_losses_of_errors_climb_and_belong_to_regression_alone():
    layer, _ = linear()
    inputs, targets, _ = examples(layer)
    model = tb.wrap(layer, box=(-9.0, 9.0), task="regression:tolerance=1")
    scores = model.task.scores(model(inputs), targets)
    error = (model(inputs).double() - targets)[:, 0]
    assert torch.allclose(loss("squared-error")(scores, torch.zeros(8)), error.square())
    assert torch.allclose(loss("absolute-error")(scores, torch.zeros(8)), error.abs())
    wanted = tb.attack("pgd", model, inputs, targets, "linf:0.75", loss="margin").success
    for name in ("squared-error", "absolute-error"):
        assert torch.equal(tb.attack("pgd", model, inputs, targets, "linf:0.75", loss=name).success, wanted)
        with pytest.raises(InputError, match=f"{name} is a loss of the task regression; the model's is classification"):
            tb.attack("pgd", nn.Linear(6, 3), inputs + 0.5, torch.zeros(8, dtype=torch.int64), "linf:0.5", loss=name)


def test_a_loss_of_the_callers_own_sees_outputs_and_targets_as_they_are():
    layer, _ = linear(2)
    inputs, targets, _ = examples(layer)
    model = tb.wrap(layer, box=(-9.0, 9.0), task="regression:tolerance=1")
    seen = []

    def squared(outputs, told):
        seen.append((outputs.shape[1:], told.shape[1:]))
        return (outputs - told).square().sum(1)

    for budget in (None, 9):
        found = tb.attack("pgd", model, inputs, targets, "linf:0.9", loss=squared, budget=budget)
        assert found.success.any() or budget
        assert torch.equal(found.success, ((model(found.adversarial) - targets).abs() > 1).any(1))
    assert set(seen) == {((2,), (2,))}


def test_a_goal_of_the_callers_own_reads_predictions_and_targets():
    """An alarm that is to be raised: the prediction above 2, whatever the target."""

    class Above:
        name, silenced, decided = "above", True, False

        def bind(self, labels, classes):
            raise AssertionError("a goal without classes binds nothing")

        def concerns(self, labels):
            return torch.ones(len(labels), dtype=torch.bool)

        def margin(self, outputs, labels, targets):
            return 2.0 - outputs[:, 0]

    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    model = tb.wrap(layer, box=(0.0, 4.0), task="regression:tolerance=1")
    for size, wanted in ((0.9, False), (1.1, True)):
        threat = tb.Threat(tb.Threat.parse(f"linf:{size}").perturbations, Above())
        for name in ("pgd", "apgd", "fab", "square", "fmn"):
            found = tb.attack(name, model, torch.ones(3, 1), torch.ones(3), threat)
            assert found.success.tolist() == [wanted] * 3, name


@pytest.mark.parametrize("tolerance", [0, 0.0, -1.0, math.inf, math.nan, True, "wide"])
def test_tolerances_that_decide_nothing_are_refused(tolerance):
    with pytest.raises(InputError, match="`tolerance` must be a positive, finite number"):
        tb.wrap(nn.Linear(2, 1), task="regression", tolerance=tolerance)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1.0, math.nan, 2.0], "must be finite; got 1 NaN or infinite targets, the first in row 1"),
        ([1.0, math.inf, math.nan], "got 2 NaN or infinite"),
        (torch.zeros(3, 2, 2), r"targets \(B,\) or \(B, K\); got shape \(3, 2, 2\)"),
        (torch.tensor([True, False, True]), "real numbers; got torch.bool"),
        (torch.zeros(3, dtype=torch.complex64), "real numbers"),
        (np.array(["a", "b", "c"]), "labels of a regression; got ndarray"),
        (torch.zeros(3, 0), "at least 1 example|targets"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(labels, said):
    with pytest.raises(InputError, match=said):
        tb.LabelledSet(torch.rand(3, 2), labels, task="regression")
    if isinstance(labels, torch.Tensor):
        with pytest.raises(InputError):
            tb.attack(
                "pgd", tb.wrap(nn.Linear(2, 1), task="regression:tolerance=1"), torch.rand(3, 2), labels, "linf:1"
            )


def test_whole_numbers_are_targets_too():
    data = tb.LabelledSet(torch.rand(3, 2), [1, 2, 3], task="regression")
    assert data.labels.dtype == torch.float64
    model = tb.wrap(nn.Linear(2, 1), task="regression:tolerance=1")
    ints = tb.attack("pgd", model, data.inputs, torch.tensor([1, 2, 3]), "linf:0.1")
    floats = tb.attack("pgd", model, data.inputs, torch.tensor([1.0, 2.0, 3.0]), "linf:0.1")
    assert torch.equal(ints.adversarial, floats.adversarial)


def test_targets_that_are_not_as_many_as_outputs_are_refused():
    model = tb.wrap(nn.Linear(2, 3), task="regression:tolerance=1")
    data = tb.LabelledSet(torch.rand(4, 2), torch.rand(4, 2), task="regression")
    for call in (
        lambda: tb.attack("pgd", model, data.inputs, data.labels, "linf:0.1"),
        lambda: tb.certify("crown", model, data.inputs, data.labels, "linf:0.1"),
        lambda: tb.audit(model, data, ["linf:0.1"]),
    ):
        with pytest.raises(InputError, match="one target for each output; got 2 for 3 outputs"):
            call()


def test_a_single_output_is_no_classification_and_the_refusal_says_what_it_may_be():
    inputs, labels = torch.rand(2, 4), torch.zeros(2, dtype=torch.int64)
    for module in (
        nn.Linear(4, 1),
        nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()),
        nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
    ):
        with pytest.raises(InputError, match=r"predicts a number is a regression: task='regression:tolerance=…'"):
            tb.attack("pgd", module, inputs, labels, "linf:0.1")
    with pytest.raises(InputError, match="say task='regression' where they are numbers to predict"):
        tb.LabelledSet(inputs, torch.rand(2))


def test_without_a_tolerance_data_has_targets_and_a_model_is_refused():
    tb.LabelledSet(torch.rand(2, 4), [0.5, 1.5], task="regression")
    with pytest.raises(InputError, match="which error still counts as right; got no tolerance"):
        tb.wrap(nn.Linear(4, 1), task="regression")


def test_goals_of_classes_and_decisions_are_refused_before_the_model_is_asked():
    class Silent(nn.Linear):
        def forward(self, inputs):
            raise AssertionError("asked")

    model = tb.wrap(Silent(2, 1), task="regression:tolerance=1")
    data = tb.LabelledSet(torch.rand(3, 2), [0.0, 1.0, 2.0], task="regression")
    for threat, said in (
        ("linf:0.1;goal=target:1", "names classes, of which regression has none"),
        ("linf:0.1;goal=source:0,target:1", "names classes"),
        ("linf:0.1;goal=reduce-confidence:0.5", "names a confidence"),
        ("linf:0.1;access=decisions", "no decisions apart from its outputs"),
    ):
        with pytest.raises(UnsupportedError, match=said):
            tb.attack("hopskipjump" if "decisions" in threat else "pgd", model, data.inputs, data.labels, threat)
        with pytest.raises(UnsupportedError, match=said):
            tb.audit(model, data, [threat])


def test_model_and_data_must_be_of_one_task():
    with pytest.raises(InputError, match="the model's is classification, the data's regression"):
        tb.audit(nn.Linear(2, 2), tb.LabelledSet(torch.rand(3, 2), torch.rand(3), task="regression"), ["linf:0.1"])
    with pytest.raises(InputError, match="digits holds labels of the task classification; got regression"):
        tb.load_data("digits", task="regression")


def test_training_is_for_classes_and_says_so():
    data = tb.LabelledSet(torch.rand(8, 2), torch.rand(8), task="regression")
    from trustbound.hardening import Recipe

    for model in (nn.Linear(2, 2), tb.wrap(nn.Linear(2, 1), task="regression:tolerance=1")):
        with pytest.raises(InputError, match="objectives are those of a classification; got the task regression"):
            tb.train(model, data, Recipe(epochs=1))


class Gap(nn.Linear):
    """A regressor that has no answer beyond 0.5 of its first feature."""

    def forward(self, inputs):
        return torch.where(inputs[:, :1] > 0.5, torch.nan, super().forward(inputs))


def test_an_audit_brackets_a_regressor_and_counts_inputs_without_an_answer():
    layer = Gap(2, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    inputs = torch.tensor([[0.45, 0.5]] * 30 + [[0.1, 0.5]] * 30)
    data = tb.LabelledSet(inputs, torch.zeros(60), task="regression")
    record = tb.audit(tb.wrap(layer, task="regression:tolerance=1"), data, ["linf:0.1"], budget="quick")
    (found,) = record.brackets
    assert 10 < found.broken == found.unanswered <= 30  # by random starts: nothing leads there
    assert record.exit_code in (0, 3)


def test_a_scikit_learn_regressor_is_audited_by_its_scores(tmp_path):
    from sklearn.ensemble import RandomForestRegressor

    train, data = tb.load_data("diabetes", split="train"), tb.load_data("diabetes", limit=40)
    forest = RandomForestRegressor(20, random_state=0).fit(train.inputs, train.labels)
    model = tb.wrap(forest, task="regression", tolerance=80)
    with pytest.raises(UnsupportedError, match="shows scores at most"):
        tb.audit(model, data, ["linf:0.05"])
    record = tb.audit(model, data, ["linf:0.05;access=scores"], budget="quick", run=tmp_path / "run")
    (found,) = record.brackets
    assert found.no_proof.startswith("no proof: trees are proven for classes alone")
    assert 0.0 == found.lower <= found.upper < record.clean_accuracy
    wrong = np.abs(forest.predict(data.inputs.numpy()) - data.labels.numpy()) > 80
    assert found.misclassified == wrong.sum()


def test_the_record_keeps_targets_errors_and_measures_and_the_report_shows_them(tmp_path):
    from trustbound.record.record_file import read_record

    train, data = tb.load_data("diabetes", split="train"), tb.load_data("diabetes")
    solved = torch.linalg.lstsq(
        torch.cat((train.inputs, torch.ones(len(train), 1)), 1).double(), train.labels[:, None]
    ).solution[:, 0]
    layer = nn.Linear(10, 1)
    with torch.no_grad():
        layer.weight.copy_(solved[None, :10].float())
        layer.bias.copy_(solved[10:].float())
    model = tb.wrap(layer, task="regression", tolerance=90)
    record = tb.audit(model, data, ["linf:0.02"], budget="quick", run=tmp_path)
    errors = (model(data.inputs).detach().double()[:, 0] - data.labels).abs()
    assert record.measures["clean"]["MAE"] == pytest.approx(float(errors.mean()))
    assert record.measures["linf:0.02"]["MAE"] > record.measures["clean"]["MAE"]
    assert record.clean_accuracy == pytest.approx(float((errors <= 90).double().mean()))
    exact = (90 - errors) / float(layer.weight.detach().double().abs().sum())
    inner = ((data.inputs > 0.02) & (data.inputs < 0.98)).all(1)  # elsewhere the box takes some of the change
    for row, size, free in zip(record.examples, exact.tolist(), inner.tolist(), strict=True):
        assert row.label is None
        assert row.detail["error"] == pytest.approx(row.detail["prediction"] - row.detail["target"])
        if row.verdict == "broken":
            assert abs(row.detail["adversarial_error"]) > 90
            assert size < 0.0201
        elif free and row.verdict != "misclassified":
            assert (row.verdict == "certified") == (size > 0.02 + 2e-6) or abs(size - 0.02) < 1e-5
    assert record.brackets[0].unknown <= 2
    assert record.doubts == {}
    assert read_record(tmp_path) == record
    page = tb.write_report(record, tmp_path / "page.html").read_text()
    for said in (
        "predicted within the tolerance",
        "MAE",
        "RMSE",
        "not defined for the task regression",
        "adversarial error",
    ):
        assert said in page
    assert "classified correctly" not in page


def test_a_resumed_audit_is_the_same_and_another_tolerance_is_another_question(tmp_path):
    data = tb.load_data("diabetes", limit=30)
    layer = linear(1, 10, scale=100.0)[0]
    with torch.no_grad():
        layer.bias.fill_(150.0)
    first = tb.audit(tb.wrap(layer, task="regression:tolerance=70"), data, ["l2:0.1"], budget="quick", run=tmp_path)
    again = tb.audit(tb.wrap(layer, task="regression:tolerance=70"), data, ["l2:0.1"], budget="quick", run=tmp_path)
    assert (again.brackets, again.examples, again.measures) == (first.brackets, first.examples, first.measures)
    with pytest.raises(tb.RecordError, match="task was"):
        tb.audit(tb.wrap(layer, task="regression:tolerance=71"), data, ["l2:0.1"], budget="quick", run=tmp_path)


def test_files_hold_targets(tmp_path):
    table = tmp_path / "house.csv"
    table.write_text("size,rooms,price\n10,1,100.5\n20,2,250\n15,3,-3e2\n")
    data = tb.load_data(table, label_column="price", task="regression")
    assert data.labels.tolist() == [100.5, 250.0, -300.0]
    table.write_text("size,price\n10,cheap\n20,2\n")
    with pytest.raises(InputError, match="line 2, column 'price': a finite number is needed; got 'cheap'"):
        tb.load_data(table, label_column="price", task="regression")
    np.savez(tmp_path / "a.npz", inputs=np.random.rand(4, 3).astype("f4"), labels=np.arange(8.0).reshape(4, 2))
    assert tb.load_data(tmp_path / "a.npz", task="regression").labels.shape == (4, 2)
    with pytest.raises(InputError, match="must have shape"):
        tb.load_data(tmp_path / "a.npz")
