"""Objectives against closed forms on linear models, and what a search may and may not do to a model."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from trustbound.attacks.gradient.pgd import PGD
from trustbound.errors import InputError
from trustbound.hardening.objectives import Batch, Context, FGSMRSTraining, PGDTraining, Standard, build
from trustbound.model.wrapping import wrap
from trustbound.threat import NormBall, Random, Threat


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


def batch_of(inputs, labels, key=5):
    return Batch(inputs=inputs, labels=labels, random=Random(key, torch.arange(len(inputs))))


def context_of(model, norm=None, epsilon=None, shape=()):
    return Context(model, None if norm is None else Threat(NormBall(norm, epsilon)), shape=shape)


def step(objective, context, batch):
    """The first step: loss and metrics."""
    loss, _, metrics = objective.step(context, objective.init(context), batch)
    return loss, metrics


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
    loss, metrics = step(Standard(label_smoothing=smoothing), context_of(model), batch_of(inputs, labels))
    logits = inputs.numpy() @ np.array([[1.0, 0.5, 0.0], [-2.0, 3.0, 1.0]]) + [0.1, 0.2, -0.3]
    wanted = np.full((2, 3), smoothing / 3)
    wanted[[0, 1], [2, 0]] += 1 - smoothing
    expected = -(wanted * special.log_softmax(logits, axis=1)).sum(axis=1).mean()
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert float(metrics["accuracy"]) == np.mean(logits.argmax(1) == labels.numpy())


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
        context = context_of(model, norm, 0.2)
        loss, _ = step(PGDTraining(steps=12, step_size=0.2), context, batch_of(inputs, labels))
        expected = torch.nn.functional.softplus(0.2 * reach - margin).mean()
        assert float(loss.detach()) == pytest.approx(float(expected), abs=2e-4)
    worst = PGDTraining(steps=10).adversarial(context_of(model, "linf", 0.2), batch_of(inputs, labels))
    torch.testing.assert_close(worst, inputs - 0.2 * sign[:, None] * weight.sign(), rtol=0, atol=1e-6)


def test_pgd_takes_the_stated_steps():
    recorder = Recorder(nn.Linear(5, 3))
    model, epsilon, step_size = wrap(recorder), 0.1, 0.03
    inputs, labels = torch.rand(8, 5), torch.arange(8) % 3
    step(PGDTraining(steps=4, step_size=step_size), context_of(model, "linf", epsilon), batch_of(inputs, labels))
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
    context = context_of(wrap(recorder), "linf", 0.2)
    step(PGDTraining(steps=5, random_start=False), context, batch_of(inputs, torch.zeros(3, dtype=torch.int64)))
    assert torch.equal(recorder.calls[0], inputs)
    moved = (recorder.calls[1] - inputs).abs()
    torch.testing.assert_close(moved, torch.full((3, 4), 2.5 * 0.2 / 5), rtol=0, atol=1e-6)
    assert torch.equal(inputs, torch.full((3, 4), 0.5))


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_fgsm_rs_is_one_clipped_step_from_a_random_start(epsilon):
    recorder = Recorder(nn.Linear(20, 4))
    inputs, labels = torch.rand(64, 20), torch.arange(64) % 4
    inputs[:, :5] = 0.0
    context, batch = context_of(wrap(recorder), "linf", epsilon, (20,)), batch_of(inputs, labels)
    step(FGSMRSTraining(), context, batch)
    start, end = recorder.calls
    assert torch.equal(start, context.start(batch))
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
    context, batch = context_of(wrap(recorder), "linf", 0.2), batch_of(inputs, labels)
    start = context.start(batch)
    share = ((start - inputs + 0.2) / 0.4).double().flatten().numpy()
    assert stats.kstest(share, "uniform").pvalue > 1e-3
    assert stats.kstest(share.reshape(200, 50)[:, 25:].ravel(), "uniform").pvalue > 1e-3
    assert not torch.equal(start, context.start(batch_of(inputs, labels, key=6)))
    step(PGDTraining(steps=1), context, batch)
    torch.testing.assert_close(recorder.calls[0], start.clamp(0.0, 1.0), rtol=0, atol=1e-7)
    share_black = float((recorder.calls[0][:, 25:] == 0.0).double().mean())
    assert abs(share_black - 0.5) < 4 * np.sqrt(0.25 / 5000)
    far = context_of(wrap(recorder), "l2", 0.2).start(batch)
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
    context = context_of(model, "linf", 0.1, (5,))
    loss, _ = step(objective, context, batch_of(torch.rand(4, 5), torch.arange(4) % 3))
    inner = context.forwards // 4 - 1
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
    step(PGDTraining(steps=3, mode=mode), context_of(model, "linf", 0.1), batch_of(inputs, labels))
    assert recorder.modes == [inner] * 3 + [True]
    norm = recorder.inner[0]
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * recorder.calls[-1].mean(0))
    assert all(module.training for module in model.modules())


def test_weights_thaw_even_when_the_search_fails():
    model = wrap(nn.Linear(2, 2))
    model.module.bias.requires_grad_(False)
    batch = batch_of(torch.rand(3, 2), torch.arange(3) % 2)

    def surrogate(logits, owner):
        assert not model.module.weight.requires_grad
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        context_of(model, "linf", 0.1).inner(PGD(steps=1), batch, loss=surrogate)
    assert model.module.weight.requires_grad
    assert not model.module.bias.requires_grad


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
@pytest.mark.parametrize("objective", [PGDTraining(steps=3), FGSMRSTraining()])
def test_every_norm_stays_inside(objective, norm):
    torch.manual_seed(1)
    model = wrap(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)))
    inputs, labels = torch.rand(32, 12), torch.arange(32) % 3
    context = context_of(model, norm, {"linf": 0.1, "l2": 0.3, "l1": 0.8, "l0": 2}[norm], (12,))
    found = objective.adversarial(context, batch_of(inputs, labels))
    assert context.threat.perturbations.around(inputs, (0.0, 1.0)).contains(found).all()
    before = nn.functional.cross_entropy(model(inputs), labels)
    assert nn.functional.cross_entropy(model(found), labels) > before


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("nonsense", {}, "standard, pgd, fgsm-rs.*; got 'nonsense'"),
        ("pgd", {"alpha": 0.1}, "pgd takes steps, step_size, random_start, mode; got alpha"),
        ("pgd", {"steps": 0}, "`steps` must be a whole number, at least 1; got 0"),
        ("pgd", {"step_size": float("nan")}, "`step_size` must be above 0"),
        ("pgd", {"mode": "test"}, "train or eval; got 'test'"),
        ("fgsm-rs", {"step_size": -1.0}, "`step_size` must be above 0"),
        ("standard", {"label_smoothing": 1.0}, r"`label_smoothing` must lie in \[0, 1\); got 1.0"),
    ],
)
def test_refuses_numbers_that_no_objective_has(name, params, message):
    with pytest.raises(InputError, match=message):
        build(name, **params)
