"""Objectives against closed forms on linear models, and what a search may and may not do to a model."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from trustbound.errors import InputError
from trustbound.hardening.objectives import FGSMRSTraining, Learner, PGDTraining, Standard, build, name_of
from trustbound.hardening.registry import OBJECTIVES
from trustbound.model.wrapping import wrap
from trustbound.threat import NormBall, Random


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        yield


def linear(weights, bias=None):
    weights = torch.as_tensor(weights, dtype=torch.float32)
    module = nn.Linear(weights.shape[1], weights.shape[0])
    with torch.no_grad():
        module.weight.copy_(weights)
        module.bias.copy_(torch.zeros(len(weights)) if bias is None else torch.as_tensor(bias))
    return wrap(module)


def randoms(count, key=5):
    return Random(key, torch.arange(count))


class Recorder(nn.Module):
    """Keeps each call's inputs and mode."""

    def __init__(self, module):
        super().__init__()
        self.inner = module
        self.calls, self.modes = [], []

    def forward(self, inputs):
        self.calls.append(inputs.detach().clone())
        self.modes.append(self.training)
        return self.inner(inputs)


class WeightGradientCounter(torch.autograd.Function):
    """A linear layer that tells whether its backward pass was asked for weight gradients."""

    asked: ClassVar[list] = []

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs, weight)
        return inputs @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        WeightGradientCounter.asked.append(ctx.needs_input_grad[1])
        return gradient @ weight, gradient.T @ inputs if ctx.needs_input_grad[1] else None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_standard_is_cross_entropy_with_smoothed_labels(smoothing):
    model = linear([[1.0, -2.0], [0.5, 3.0], [0.0, 1.0]], [0.1, 0.2, -0.3])
    inputs, labels = torch.tensor([[0.2, 0.7], [0.9, 0.4]]), torch.tensor([2, 0])
    loss, facts = Standard(label_smoothing=smoothing).loss(Learner(model), inputs, labels, randoms(2))
    logits = inputs.numpy() @ np.array([[1.0, 0.5, 0.0], [-2.0, 3.0, 1.0]]) + [0.1, 0.2, -0.3]
    wanted = np.full((2, 3), smoothing / 3)
    wanted[[0, 1], [2, 0]] += 1 - smoothing
    expected = -(wanted * special.log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert float(facts["accuracy"]) == np.mean(logits.argmax(1) == labels.numpy())


def test_pgd_reaches_the_closed_form_of_a_linear_classifier():
    """l∞: the worst loss is softplus(ε‖w‖₁ − y·margin) and is reached at x − ε sign; l2: ε‖w‖₂."""
    torch.manual_seed(0)
    weight = torch.randn(6)
    model = linear(torch.stack([weight, -weight]) / 2)
    inputs = torch.rand(16, 6) * 0.4 + 0.3  # ± 0.2 stays inside the box
    labels = torch.arange(16) % 2
    sign = 1.0 - 2.0 * labels.float()
    margin = sign * (inputs @ weight)
    for norm, reach in (("linf", weight.abs().sum()), ("l2", weight.norm())):
        learner = Learner(model, NormBall(norm, 0.2))
        loss, _ = PGDTraining(steps=12, step_size=0.2).loss(learner, inputs, labels, randoms(16))
        expected = torch.nn.functional.softplus(0.2 * reach - margin).mean()
        assert float(loss.detach()) == pytest.approx(float(expected), abs=2e-4)
    worst = PGDTraining(steps=10).adversarial(Learner(model, NormBall("linf", 0.2)), inputs, labels, randoms(16))
    torch.testing.assert_close(worst, inputs - 0.2 * sign[:, None] * weight.sign(), rtol=0, atol=1e-6)


def test_pgd_takes_the_stated_steps():
    recorder = Recorder(nn.Linear(5, 3))
    model, epsilon, step_size = wrap(recorder), 0.1, 0.03
    inputs, labels = torch.rand(8, 5), torch.arange(8) % 3
    learner = Learner(model, NormBall("linf", epsilon))
    PGDTraining(steps=4, step_size=step_size).loss(learner, inputs, labels, randoms(8))
    assert len(recorder.calls) == 5
    weight = recorder.inner.weight.detach()
    for before, after in zip(recorder.calls, recorder.calls[1:], strict=False):
        residual = recorder.inner(before).softmax(1) - nn.functional.one_hot(labels, 3)
        moved = before + step_size * (residual.detach() @ weight).sign()
        expected = torch.minimum(torch.maximum(moved, inputs - epsilon), inputs + epsilon).clamp(0.0, 1.0)
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-6)


def test_pgd_default_step_size_and_start_at_the_clean_input():
    recorder = Recorder(nn.Linear(4, 2))
    inputs = torch.full((3, 4), 0.5)
    learner = Learner(wrap(recorder), NormBall("linf", 0.2))
    PGDTraining(steps=5, random_start=False).loss(learner, inputs, torch.zeros(3, dtype=torch.int64), randoms(3))
    assert torch.equal(recorder.calls[0], inputs)
    step = (recorder.calls[1] - inputs).abs()
    torch.testing.assert_close(step, torch.full((3, 4), 2.5 * 0.2 / 5), rtol=0, atol=1e-6)
    assert torch.equal(inputs, torch.full((3, 4), 0.5))


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_fgsm_rs_is_one_clipped_step_from_a_random_start(epsilon):
    recorder = Recorder(nn.Linear(20, 4))
    inputs, labels = torch.rand(64, 20), torch.arange(64) % 4
    inputs[:, :5] = 0.0
    learner = Learner(wrap(recorder), NormBall("linf", epsilon))
    FGSMRSTraining().loss(learner, inputs, labels, randoms(64))
    start, end = recorder.calls
    assert torch.equal(start, learner.start(inputs, randoms(64)))
    assert (start < 0).any()  # the gradient is taken where the paper takes it, clipped to no box
    residual = recorder.inner(start).softmax(1) - nn.functional.one_hot(labels, 4)
    sign = (residual.detach() @ recorder.inner.weight.detach()).sign()
    unclipped = start - inputs + 1.25 * epsilon * sign
    assert (unclipped.abs() > epsilon + 0.01).float().mean() > 0.2  # else clipping is not tested
    expected = (inputs + unclipped.clamp(-epsilon, epsilon)).clamp(0.0, 1.0)
    torch.testing.assert_close(end, expected, rtol=0, atol=1e-6)
    assert NormBall("linf", epsilon).around(inputs, (0.0, 1.0)).contains(end).all()


def test_the_start_is_uniform_in_the_ball_and_pgd_clips_it_to_the_box():
    inputs, labels = torch.full((200, 50), 0.5), torch.zeros(200, dtype=torch.int64)
    inputs[:, 25:] = 0.0  # a black background
    recorder = Recorder(nn.Linear(50, 2))
    learner = Learner(wrap(recorder), NormBall("linf", 0.2))
    start = learner.start(inputs, randoms(200))
    share = ((start - inputs + 0.2) / 0.4).double().flatten().numpy()
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert stats.kstest(share.reshape(200, 50)[:, 25:].ravel(), "uniform").pvalue > 1e-3
    assert not torch.equal(start, learner.start(inputs, randoms(200, key=6)))
    PGDTraining(steps=1).loss(learner, inputs, labels, randoms(200))
    torch.testing.assert_close(recorder.calls[0], start.clamp(0.0, 1.0), rtol=0, atol=1e-7)
    share_black = float((recorder.calls[0][:, 25:] == 0.0).double().mean())
    assert abs(share_black - 0.5) < 4 * np.sqrt(0.25 / 5000)
    far = Learner(wrap(recorder), NormBall("l2", 0.2)).start(inputs, randoms(200))
    assert ((far - inputs).norm(dim=1) <= 0.2 + 1e-6).all()
    assert (far < 0).any()


@pytest.mark.parametrize("objective", [PGDTraining(steps=3), FGSMRSTraining()])
def test_the_inner_search_asks_for_no_weight_gradient(objective):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 5))

        def forward(self, inputs):
            return WeightGradientCounter.apply(inputs, self.weight)

    model = wrap(Net())
    WeightGradientCounter.asked = []
    learner = Learner(model, NormBall("linf", 0.1))
    loss, _ = objective.loss(learner, torch.rand(4, 5), torch.arange(4) % 3, randoms(4))
    inner = learner.forwards // 4 - 1
    assert WeightGradientCounter.asked == [False] * inner
    assert model.module.weight.grad is None
    loss.backward()
    assert WeightGradientCounter.asked == [False] * inner + [True]
    assert model.module.weight.grad is not None
    assert model.module.weight.requires_grad


@pytest.mark.parametrize(("mode", "inner"), [("train", True), ("eval", False)])
def test_inner_mode_and_running_statistics(mode, inner):
    """The search runs in the stated mode; batch norm's statistics move once, by the outer pass alone."""
    recorder = Recorder(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 3)))
    model = wrap(recorder).train()
    inputs, labels = torch.rand(8, 5), torch.arange(8) % 3
    PGDTraining(steps=3, mode=mode).loss(Learner(model, NormBall("linf", 0.1)), inputs, labels, randoms(8))
    assert recorder.modes == [inner] * 3 + [True]
    norm = recorder.inner[0]
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * recorder.calls[-1].mean(0))
    assert all(module.training for module in model.modules())


def test_weights_thaw_even_when_the_search_fails():
    model = wrap(nn.Linear(2, 2))
    model.module.bias.requires_grad_(False)
    learner = Learner(model, NormBall("linf", 0.1))

    def surrogate(logits):
        assert not model.module.weight.requires_grad
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), learner.search() as climb:
        climb(torch.rand(3, 2), surrogate)
    assert model.module.weight.requires_grad
    assert not model.module.bias.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("objective", [PGDTraining(steps=3), FGSMRSTraining()])
def test_every_norm_stays_inside(objective, norm):
    torch.manual_seed(1)
    model = wrap(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)))
    inputs, labels = torch.rand(32, 12), torch.arange(32) % 3
    allowed = NormBall(norm, {"linf": 0.1, "l2": 0.3, "l1": 0.8, "l0": 2}[norm])
    found = objective.adversarial(Learner(model, allowed), inputs, labels, randoms(32))
    assert allowed.around(inputs, (0.0, 1.0)).contains(found).all()
    before = nn.functional.cross_entropy(model(inputs), labels)
    assert nn.functional.cross_entropy(model(found), labels) > before


@pytest.mark.parametrize("row", OBJECTIVES, ids=lambda row: row.name)
def test_every_row_of_the_registry_is_what_it_says(row):
    objective = build(row.name)
    assert objective.threat is row.threat
    assert name_of(objective) == row.name
    assert {"Lifts", "Loss", "Cost", "Randomness", "Reference", "Deviations", ">>>"} <= set(
        type(objective).__doc__.split()
    )


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("trades", {}, "standard, pgd, fgsm-rs; got 'trades'"),
        ("pgd", {"alpha": 0.1}, "pgd takes steps, step_size, random_start, mode; got alpha"),
        ("pgd", {"steps": 0}, "`steps` must be at least 1; got 0"),
        ("pgd", {"step_size": float("nan")}, "`step_size` must be above 0"),
        ("pgd", {"mode": "test"}, "train or eval; got 'test'"),
        ("fgsm-rs", {"step_size": -1.0}, "`step_size` must be above 0"),
        ("standard", {"label_smoothing": 1.0}, r"`label_smoothing` must lie in \[0, 1\); got 1.0"),
    ],
)
def test_refuses_numbers_that_no_objective_has(name, numbers, message):
    with pytest.raises(InputError, match=message):
        build(name, **numbers)
