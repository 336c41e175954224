"""Training under noise: the loss is its integral, and votes under that noise become surer."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.errors import InputError
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import Batch, Context, GaussianNoise
from trustbound.threat import Random


@pytest.mark.parametrize("std", [0.1, 0.5])
def test_the_loss_is_the_mean_over_the_noise(std):
    """Two classes, linear: the logit difference is normal, and its softplus is integrated by Gauss and Hermite."""
    linear = nn.Linear(3, 2)
    gap = (linear.weight[0] - linear.weight[1]).detach().double()
    inputs = torch.tensor([[0.2, 0.9, 0.4]])
    outputs = linear(inputs).detach().double()
    margin, spread = float(outputs[0, 0] - outputs[0, 1]), std * float(gap.norm())
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    wanted = float((weights * np.log1p(np.exp(-(margin + spread * nodes)))).sum() / math.sqrt(2 * math.pi))
    count = 20_000
    batch = Batch(
        inputs=inputs.expand(count, -1),
        labels=torch.zeros(count, dtype=torch.int64),
        random=Random(3, torch.arange(count)),
    )
    loss, state, metrics = GaussianNoise(noise_std=std).step(Context(tb.wrap(linear)), {}, batch)
    assert float(loss.detach()) == pytest.approx(wanted, abs=0.02)
    share = float(torch.special.ndtr(torch.tensor(margin / spread)))
    assert float(metrics["noisy_accuracy"]) == pytest.approx(share, abs=0.02)
    assert state == {}


def test_votes_under_the_noise_become_surer():
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=40)
    shares = []
    for objective in ("standard", GaussianNoise(noise_std=0.35)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)))
        recipe = Recipe(objective=objective, epochs=15, batch_size=64, learning_rate=5e-3)
        model = tb.train(model, train, recipe).model
        found = tb.certify("smoothing", model, test.inputs, test.labels, "l2:0.4", noise_std=0.35, draws=400, family=1)
        shares.append(float(found.certified.double().mean()))
    assert shares[1] > shares[0] + 0.15


@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan, "much", True])
def test_what_is_no_noise_is_refused(std):
    with pytest.raises(InputError, match="`noise_std` must be a finite number above 0"):
        GaussianNoise(noise_std=std)
