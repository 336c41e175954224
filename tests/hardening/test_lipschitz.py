"""Spectral-norm regularisation: the norms are those of the layers' maps, and their product proves more."""

import math

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.sensitivity.gains import gains
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening import Recipe
from trustbound.hardening.objectives import Batch, Context, LipschitzTraining
from trustbound.threat import Random


def network():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, dilation=2),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).double()
    module[1].running_var.uniform_(0.5, 2.0)
    return tb.wrap(module.eval()), torch.rand(6, 2, 11, 11, dtype=torch.float64)


def batch_of(inputs):
    return Batch(inputs=inputs, labels=torch.arange(len(inputs)) % 5, random=Random(0, torch.arange(len(inputs))))


def dense(layer, *extent):
    """The matrix of a layer's linear part."""
    columns = torch.eye(math.prod(extent), dtype=torch.float64).reshape(-1, *extent)
    return (layer(columns) - layer(torch.zeros(1, *extent, dtype=torch.float64))).flatten(1).T


def test_the_penalty_is_that_of_the_matrices_and_so_is_its_gradient():
    model, inputs = network()
    layers = model.module
    matrices = dense(layers[0], 2, 11, 11), dense(layers[3], 6, 6, 6), layers[5].weight
    norms = [torch.linalg.matrix_norm(matrix, 2) for matrix in matrices]
    norms.insert(1, (layers[1].weight.abs() / (layers[1].running_var + layers[1].eps).sqrt()).max())
    wanted = nn.functional.cross_entropy(model(inputs), torch.arange(6) % 5) + 0.5 * sum(norm**2 for norm in norms)
    slopes = torch.autograd.grad(wanted, list(model.parameters()))
    objective, context = LipschitzTraining(weight=1.0, rounds=600), Context(model)
    loss, state, metrics = objective.step(context, objective.init(context), batch_of(inputs))
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)
    assert float(metrics["product"]) == pytest.approx(float(math.prod(norms).detach()), rel=1e-3)
    found = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(found, slopes, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()
    # A certifier folds a batch norm into its convolution: the two together stretch no more than one after the other.
    folded = [dense(layers[:2], 2, 11, 11), *matrices[1:]]
    known = math.prod(float(torch.linalg.matrix_norm(matrix.detach(), 2)) for matrix in folded)
    assert known <= gains(read(model, inputs))[-1] <= (1 + 1e-6) * known
    assert known < float(metrics["product"])
    assert (context.forwards, context.backwards) == (6, 6)
    assert not any(part._forward_pre_hooks for part in model.modules())
    assert sorted(state) == ["module.0", "module.3", "module.5"]


def test_one_round_a_step_gets_there_from_the_vectors_that_are_kept():
    model, inputs = network()
    objective, context, state = LipschitzTraining(weight=0.0), Context(model), {}
    for _ in range(200):
        _, state, metrics = objective.step(context, state, batch_of(inputs))
    _, _, far = LipschitzTraining(rounds=400).step(context, {}, batch_of(inputs))
    assert float(metrics["product"]) == pytest.approx(float(far["product"]), rel=1e-3)
    _, _, first = objective.step(context, {}, batch_of(inputs))
    assert first["product"] < far["product"]


def test_its_networks_have_smaller_products_and_larger_proven_radii():
    train, test = tb.load_data("digits", split="train"), tb.load_data("digits", split="test", limit=150)
    found = []
    for objective in ("standard", LipschitzTraining(weight=0.02)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = tb.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)))
        recipe = Recipe(objective=objective, epochs=20, batch_size=64, learning_rate=5e-3)
        model = tb.train(model, train, recipe).model
        proof = tb.certify("lipschitz", model, test.inputs, test.labels, "l2:0.4")
        right = (model(test.inputs).argmax(1) == test.labels).double().mean()
        found.append((gains(read(model, test.inputs))[-1], float(proof.certified.double().mean()), float(right)))
    (product, certified, right), (smaller, more, still) = found
    assert smaller < product / 2
    assert more > certified + 0.2
    assert still > right - 0.03


def test_what_cannot_be_penalised_is_refused():
    for given in ({"weight": -1.0}, {"weight": math.inf}, {"weight": "much"}, {"rounds": 0}):
        with pytest.raises(InputError, match=r"`weight` of the penalty|`rounds` must"):
            LipschitzTraining(**given)

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(2))

        def forward(self, inputs):
            return inputs * self.factor

    data = tb.LabelledSet(torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UnsupportedError, match="needs a linear layer or a convolution"):
        tb.train(tb.wrap(Scaled()), data, Recipe(objective="lipschitz", epochs=1))
