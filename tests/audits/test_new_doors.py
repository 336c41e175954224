"""What a hostile reader found behind the doors for other sets, other models and goals of one's own."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import trustbound as tb
from trustbound.attacks.suites import suite
from trustbound.errors import InputError
from trustbound.model.wrapping import Adaptation
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
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(36, 3)

        def forward(self, inputs):
            return self.layer(inputs.flatten(1).detach())

    model = tb.wrap(Cut())
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
