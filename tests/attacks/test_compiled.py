"""The compiled gradient function is the same function."""

import shutil

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks.model_access.compiled import CompiledGradients, SurrogateLoss

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


@pytest.fixture(scope="module")
def model():
    """Convolutions of every kind whose backward is taken apart: strided, dilated, grouped, padded, odd sizes."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4),
        nn.ReLU(),
        nn.Conv2d(8, 4, 3, stride=3, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 5),
    )
    return tb.wrap(layers.eval().requires_grad_(False), classes=5)


@pytest.fixture(scope="module")
def gradients(model):
    """One program for ten rows."""
    return CompiledGradients(model, rows=10)


@pytest.mark.parametrize("count", [10, 8])
def test_gradients_outputs_and_losses_are_those_of_the_eager_loop(model, gradients, count):
    points, labels = torch.rand(count, 1, 15, 15), torch.arange(count) % 5
    climb = SurrogateLoss("ce", labels)
    assert gradients.serves(climb, count)
    slope, outputs, losses = gradients(points, climb, slice(0, count))
    leaf = points.clone().requires_grad_(True)
    wanted = model(leaf)
    loss = nn.functional.cross_entropy(wanted, labels, reduction="none")
    torch.testing.assert_close(slope, torch.autograd.grad(loss.sum(), leaf)[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs, wanted.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses, loss.detach(), rtol=1e-4, atol=1e-6)


def test_batches_that_are_far_from_full_run_uncompiled(gradients):
    climb = SurrogateLoss("ce", torch.zeros(20, dtype=torch.int64))
    assert [gradients.serves(climb, count) for count in (0, 1, 7, 8, 10, 11)] == [
        False,
        False,
        False,
        True,
        True,
        False,
    ]
    assert not gradients.serves(lambda outputs, rows: outputs[:, 0], 10)


def test_an_attack_finds_the_same_compiled(model):
    """Nine of ten rows are classified correctly and searched: the batch that is nearly full is filled up."""
    inputs = torch.rand(10, 1, 15, 15, generator=torch.Generator().manual_seed(1))
    labels = model(inputs).argmax(dim=1)
    labels[3] = (labels[3] + 1) % 5
    params = {"steps": 5, "batch_size": 10, "stop_early": False}
    plain, compiled = (
        tb.attack("pgd", model, inputs, labels, "linf:0.02", compile=compile, **params) for compile in (False, True)
    )
    torch.testing.assert_close(compiled.margin, plain.margin, rtol=1e-3, atol=1e-4)
    assert compiled.forwards.tolist() == plain.forwards.tolist()
    assert compiled.backwards.tolist() == plain.backwards.tolist()
    assert bool((compiled.size <= 0.02 + 1e-6).all())
