"""Any callable over arrays as a model: what it shows, what is refused, and that searches and audits serve it."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import LinearSVC

import trustbound as tb
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.predictor import Predictor

WEIGHTS = np.array([[1.0, -1.0, 0.5], [-0.5, 1.0, 0.0], [0.0, 0.5, -1.0]])


def scores(inputs):
    assert isinstance(inputs, np.ndarray)
    assert inputs.dtype == np.float32
    said = inputs.reshape(len(inputs), -1) @ WEIGHTS.T
    inputs[:] = -7.0  # a rude callable: nobody sees it
    return said


def decisions(inputs):
    return scores(inputs).argmax(axis=1)


def gradient(inputs, weights):
    return (weights @ WEIGHTS).reshape(inputs.shape)


def linear():
    module = torch.nn.Linear(3, 3, bias=False)
    module.weight.data = torch.tensor(WEIGHTS, dtype=torch.float32)
    return tb.wrap(module)


def examples(count=40):
    inputs = torch.rand(count, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return inputs, linear()(inputs).argmax(1)


def test_scores_are_those_of_the_callable():
    inputs, labels = examples()
    model = tb.wrap(scores)
    assert (model.shows, model.name) == ("scores", "scores")
    kept = inputs.clone()
    torch.testing.assert_close(model(inputs).float(), linear()(inputs))
    assert torch.equal(inputs, kept)
    assert model.in_float64() is None
    assert torch.equal(tb.wrap(decisions, shows="decisions", classes=3)(inputs).argmax(1), labels)


def test_a_gradient_of_its_own_makes_it_a_white_box():
    inputs, labels = examples()
    model = tb.wrap(scores, gradient=gradient)
    assert model.shows == "gradients"
    for name in ("pgd", "fmn"):
        mine, truth = (tb.attack(name, one, inputs, labels, "l2:0.4") for one in (model, linear()))
        assert torch.equal(mine.success, truth.success)
        torch.testing.assert_close(mine.size[mine.success], truth.size[truth.success], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("model", "threat", "wanted"),
    [
        (lambda: tb.wrap(scores), "linf:0.1", "Write linf:0.1;access=scores"),
        (lambda: tb.wrap(decisions, shows="decisions", classes=3), "l2:1;access=scores", "Write l2:1;access=decisions"),
    ],
)
def test_who_sees_more_than_is_shown_is_refused_with_what_to_write(model, threat, wanted):
    inputs, labels = examples()
    with pytest.raises(UnsupportedError, match=wanted):
        tb.attack("square", model(), inputs, labels, threat)
    with pytest.raises(UnsupportedError, match=wanted):
        tb.audit(model(), tb.LabelledSet(inputs, labels), [threat], budget="quick")


@pytest.mark.parametrize(
    ("function", "said", "words"),
    [
        (lambda rows: np.zeros(len(rows)), {}, r"\(2, C\) numbers for 2 inputs; got shape \(2,\)"),
        (lambda rows: np.zeros((len(rows) + 1, 3)), {}, r"got shape \(3, 3\)"),
        (lambda rows: np.array([["a", "b"]] * len(rows)), {}, "got shape"),
        (lambda rows: np.full(len(rows), 3), {"shows": "decisions", "classes": 3}, "class numbers 0..2.*from 3 to 3"),
        (lambda rows: np.zeros((len(rows), 3)), {"shows": "decisions", "classes": 3}, r"\(2,\) class numbers"),
    ],
)
def test_answers_of_another_kind_are_refused_in_a_sentence(function, said, words):
    with pytest.raises(InputError, match=words):
        tb.wrap(function, **said)(torch.rand(2, 3))


@pytest.mark.parametrize(
    ("given", "said", "words"),
    [
        (3, {}, "a callable over arrays; got int"),
        (RandomForestClassifier, {}, "got the class RandomForestClassifier"),
        (scores, {"shows": "logits"}, "shows decisions or scores"),
        (scores, {"shows": "decisions"}, "needs `classes`"),
        (torch.nn.Linear(2, 2), {"shows": "scores"}, "a torch module shows everything"),
    ],
)
def test_what_is_no_model_is_refused(given, said, words):
    with pytest.raises(InputError, match=words):
        tb.wrap(given, **said)


def test_arrays_in_arrays_out():
    inputs, labels = examples()
    tensors = tb.attack("square", scores, inputs, labels, "linf:0.3;access=scores", steps=60)
    arrays = tb.attack("square", scores, inputs.numpy(), labels.numpy(), "linf:0.3;access=scores", steps=60)
    assert isinstance(arrays.adversarial, np.ndarray)
    assert np.array_equal(arrays.adversarial, tensors.adversarial.numpy())
    assert arrays.success.any()


@pytest.fixture(scope="module")
def forest():
    train = tb.load_data("digits", split="train")
    return RandomForestClassifier(20, random_state=0).fit(train.inputs.flatten(1).numpy(), train.labels.numpy())


@pytest.mark.parametrize("access", ["scores", "decisions"])
@pytest.mark.parametrize("form", ["forest", "function"])
def test_a_random_forest_is_audited_end_to_end(forest, access, form, tmp_path):
    """Of a forest its trees can be proven; of a function that asks it nothing can."""
    data = tb.load_data("digits", limit=60)
    if form == "forest":
        pytest.importorskip("veritas")
        model = tb.wrap(forest)
    elif access == "scores":
        model = tb.wrap(lambda rows: forest.predict_proba(rows.reshape(len(rows), -1)), sha256="a forest")
    else:
        pytest.skip("one function is enough")
    record = tb.audit(model, data, [f"linf:0.15;access={access}"], budget="quick", run=tmp_path)
    bracket = record.brackets[0]
    predicted = torch.as_tensor(forest.predict(data.inputs.flatten(1).numpy()))
    assert bracket.n - bracket.misclassified == int((predicted == data.labels).sum())
    assert bracket.broken > 5
    assert record.exit_code == 0
    page = tb.write_report(record, tmp_path / "report.html").read_text()
    if form == "forest":
        assert 0 < bracket.lower <= bracket.upper
        assert bracket.no_proof == ""
        return
    assert bracket.lower == 0.0
    assert bracket.no_proof == "no proof: only scores of the model are seen, and no layers to bound"
    assert "no layers to bound" in page


def test_class_names_of_an_estimator_are_places():
    train = tb.load_data("digits", split="train")
    kept = train.labels < 3
    names = np.array(["nought", "one", "two"])[train.labels[kept].numpy()]
    machine = LinearSVC().fit(train.inputs[kept].flatten(1).numpy(), names)
    model = tb.wrap(machine)
    assert (model.shows, model.name) == ("decisions", "LinearSVC")
    with torch.no_grad():
        assert (model(train.inputs[kept]).argmax(1) == train.labels[kept]).float().mean() > 0.97


def test_two_forests_are_two_models(forest):
    other = RandomForestClassifier(20, random_state=1).fit(np.random.rand(30, 64), np.arange(30) % 3)
    assert tb.wrap(forest).sha256 == tb.wrap(forest).sha256 != tb.wrap(other).sha256


def test_a_callable_must_be_a_predictor_to_be_kept_as_a_module():
    assert isinstance(tb.wrap(scores).module, Predictor)
