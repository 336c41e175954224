"""TRADES against its formula, computed by scipy, and against the closed form of its inner maximum on a linear model."""

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from trustbound.errors import InputError
from trustbound.hardening.objectives import Batch, Context, FGSMRSTraining, PGDTraining, Standard, TradesTraining
from trustbound.model.wrapping import wrap
from trustbound.threat import Random, Threat


def linear(features=6, classes=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    module = nn.Linear(features, classes)
    with torch.no_grad():
        module.weight.copy_(torch.randn(classes, features, generator=generator))
        module.bias.zero_()
    return module


def batch_of(count=16, features=6, classes=2):
    inputs = torch.rand(count, features, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3  # ± 0.2 is in the box
    return Batch(inputs=inputs, labels=torch.arange(count) % classes, random=Random(5, torch.arange(count)))


def context_of(module, threat="linf:0.2"):
    return Context(wrap(module), Threat.parse(threat))


def test_the_inner_maximum_of_a_linear_model_is_a_corner():
    """KL grows with the shift of the margin on either side: the best is ± ε sign(w₁ − w₀), on the side it starts to."""
    module, batch = linear(), batch_of()
    found = TradesTraining(steps=20).adversarial(context_of(module), batch)
    direction = (module.weight[1] - module.weight[0]).detach().sign()
    sides = torch.stack([batch.inputs + side * 0.2 * direction for side in (-1, 1)])
    apart = (found - sides).flatten(2).abs().amax(2)
    assert (apart.amin(0) < 1e-6).all(), "each example ends in one of the two corners"
    assert 0 < int((apart[0] < apart[1]).sum()) < 16, "which of them is the start's choice"


@pytest.mark.parametrize("weight", [0.0, 6.0])
def test_the_loss_is_the_formula_and_its_gradient_flows_through_both_answers(weight):
    module, batch = linear(classes=3), batch_of(classes=3)
    objective, context = TradesTraining(weight=weight, steps=4), context_of(module)
    adversarial = objective.adversarial(context, batch)
    loss, state, metrics = objective.step(context, {}, batch)
    clean, moved = (
        special.log_softmax(points.numpy() @ module.weight.detach().numpy().T, axis=1)
        for points in (batch.inputs, adversarial)
    )
    kl = special.rel_entr(np.exp(clean), np.exp(moved)).sum(1).mean()
    expected = -clean[np.arange(16), batch.labels].mean() + weight * kl
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["divergence"]) == pytest.approx(kl, rel=1e-4)
    assert state == {}

    def by_hand(values):
        first, second = ((points.double() @ values.T).log_softmax(1) for points in (batch.inputs, adversarial))
        return -first[torch.arange(16), batch.labels].mean() + weight * (first.exp() * (first - second)).sum(1).mean()

    loss.backward()
    values = module.weight.detach().double().requires_grad_(True)
    torch.testing.assert_close(module.weight.grad.double(), torch.autograd.grad(by_hand(values), values)[0])
    if weight == 0.0:
        plain, _, _ = Standard().step(Context(wrap(module)), {}, batch)
        assert torch.equal(loss.detach(), plain.detach())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_search_runs_in_its_mode_and_the_statistics_move_with_the_outer_passes(mode):
    module = nn.Sequential(nn.BatchNorm1d(6), linear()).train()
    modes = []
    module[0].register_forward_hook(lambda part, *_: modes.append(part.training))
    context = context_of(module)
    TradesTraining(steps=3, mode=mode).step(context, {}, batch_of())
    assert modes == [mode == "train"] * 4 + [True, True]
    assert int(module[0].num_batches_tracked) == 2
    assert (context.forwards, context.backwards) == (6 * 16, 5 * 16)


@pytest.mark.parametrize("norm", ["linf:0.1", "l2:0.3", "l1:0.8", "l0:2"])
def test_every_set_is_kept_and_the_answers_move(norm):
    module, batch = nn.Sequential(linear(12, 16), nn.ReLU(), linear(16, 3)), batch_of(features=12, classes=3)
    context = context_of(module, norm)
    found = TradesTraining(steps=3).adversarial(context, batch)
    assert context.threat.perturbations.around(batch.inputs, (0.0, 1.0)).contains(found).all()
    assert (context.model(found) - context.model(batch.inputs)).abs().amax(1).min() > 1e-3


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"steps": 0}, "`steps` must be a whole number, at least 1; got 0"),
        ({"weight": -1.0}, "`weight` of the divergence must be a finite number at least 0; got -1.0"),
        ({"weight": float("nan")}, "`weight` of the divergence"),
        ({"mode": "test"}, "train or eval; got 'test'"),
        ({"step_size": 0.0}, "`step_size` must be above 0"),
    ],
)
def test_params_that_no_search_has_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        TradesTraining(**params)


@pytest.mark.parametrize("threat", ["rotation:20,translation:1", "brightness:0.3", "patch:2"])
@pytest.mark.parametrize("objective", [TradesTraining(steps=2), PGDTraining(steps=2), FGSMRSTraining()], ids=repr)
def test_sets_whose_state_is_not_the_input_are_searched_too(objective, threat):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    inputs = torch.rand(5, 1, 6, 6)
    context = Context(wrap(module), Threat.parse(threat), shape=(1, 6, 6))
    batch = Batch(inputs=inputs, labels=torch.arange(5) % 3, random=Random(5, torch.arange(5)))
    found = objective.adversarial(context, batch)
    assert found.shape == inputs.shape
    assert float(found.min()) >= 0.0
    assert float(found.max()) <= 1.0
    assert bool((found != inputs).flatten(1).any(1).all())
    if threat == "patch:2":
        assert int((found != inputs).sum()) <= 5 * 4
    loss, _, _ = objective.step(context, objective.init(context), batch)
    assert bool(loss.isfinite())
