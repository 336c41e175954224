"""Defences do what their papers say and declare how to get past them; planted failures fail as planted."""

import pytest
import torch
from torch import nn

from trustbound.errors import InputError
from trustbound.model import build
from trustbound.model.broken_models import BatchStatistics, DropoutOn, SaturatedSoftmax, StopGradient
from trustbound.model.defences.k_winners import KWinnersTakeAll, with_k_winners
from trustbound.model.defences.quantisation import InputQuantisation
from trustbound.model.defences.random_resize import RandomResize
from trustbound.model.wrapping import wrap


def _net():
    return build("cnn-small", seed=0, input_shape=(1, 8, 8)).eval()


def test_quantisation_has_exactly_its_levels_and_no_gradient_without_the_stand_in():
    defended = InputQuantisation(_net(), levels=5, low=-1.0, high=1.0)
    inputs = (torch.rand(8, 1, 8, 8) * 2 - 1).requires_grad_()
    levels = torch.unique(defended.quantise(inputs.detach()))
    assert torch.allclose(levels, torch.linspace(-1, 1, 5))
    assert float((defended.quantise(inputs.detach()) - inputs.detach()).abs().max()) <= 0.25 + 1e-6
    gradient = torch.autograd.grad(defended(inputs).sum(), inputs)[0]
    assert not bool(gradient.any())
    model = wrap(defended)
    (path,) = model.adaptation.stand_ins
    assert model.module.get_submodule(path) is defended.quantise


def test_random_resize_is_random_keeps_the_picture_and_stays_differentiable():
    seen = []

    class Spy(nn.Module):
        def forward(self, inputs):
            seen.append(inputs.detach())
            return inputs.flatten(1)[:, :2]

    defended = RandomResize(Spy(), low=5, high=8, padded=10, draws=7)
    assert defended.adaptation.draws == 7
    ones = torch.ones(2, 3, 8, 8)
    for _ in range(200):
        defended(ones)
    sides = {int(one[0, 0].any(0).sum()) for one in seen}
    assert sides == {5, 6, 7, 8}
    assert all(one.shape == (2, 3, 10, 10) for one in seen)
    corners = {tuple(one[0, 0].nonzero()[0].tolist()) for one in seen}
    assert (0, 0) in corners
    assert max(max(corner) for corner in corners) == 5, "the smallest picture may lie in the last corner"
    inputs = torch.rand(1, 1, 8, 8, requires_grad=True)
    RandomResize(_net(), low=6, high=8)(inputs).sum().backward()
    assert bool((inputs.grad != 0).any())
    with pytest.raises(InputError, match="low ≤ high"):
        RandomResize(_net(), low=9, high=8)


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_k_winners_equals_sorting(share):
    inputs = torch.randn(6, 4, 5)
    outputs = KWinnersTakeAll(share)(inputs)
    winners = max(1, int(share * 20))
    for row in range(6):
        best = set(inputs[row].flatten().argsort(descending=True)[:winners].tolist())
        expected = torch.tensor([v if i in best else 0.0 for i, v in enumerate(inputs[row].flatten().tolist())])
        assert torch.equal(outputs[row].flatten(), expected)
    with pytest.raises(InputError, match="`share`"):
        KWinnersTakeAll(0.0)


def test_k_winners_replace_every_relu_of_a_copy():
    network = _net()
    changed = with_k_winners(network, 0.3)
    assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 3
    assert sum(isinstance(m, nn.ReLU) for m in changed.modules()) == 0
    paths = wrap(changed).adaptation.stand_ins
    assert len(paths) == 3
    assert all(isinstance(changed.get_submodule(path), KWinnersTakeAll) for path in paths)
    assert not torch.equal(changed(torch.rand(2, 1, 8, 8)), network(torch.rand(2, 1, 8, 8)))
    with pytest.raises(InputError, match=r"nn\.ReLU"):
        with_k_winners(nn.Linear(2, 2))


def test_stacked_defences_declare_everything_at_the_right_paths():
    stacked = InputQuantisation(RandomResize(with_k_winners(_net(), 0.3), low=6, high=8, draws=5), levels=8)
    adaptation = wrap(stacked).adaptation
    assert adaptation.draws == 5
    assert len(adaptation.stand_ins) == 4
    kinds = {type(stacked.get_submodule(path)).__name__ for path in adaptation.stand_ins}
    assert kinds == {"Quantise", "KWinnersTakeAll"}


def test_planted_failures_fail_as_planted():
    network, inputs = _net(), torch.rand(40, 1, 8, 8, requires_grad=True)
    plain = network(inputs)
    saturated = SaturatedSoftmax(network, scale=2000.0)
    assert torch.equal(saturated(inputs).argmax(1), plain.argmax(1))
    loss = nn.functional.cross_entropy(saturated(inputs), plain.argmax(1))
    gradient = torch.autograd.grad(loss, inputs)[0].flatten(1)
    assert int((gradient == 0).all(1).sum()) > 10
    killed = StopGradient(network)
    assert torch.equal(killed(inputs), plain)
    assert not bool(torch.autograd.grad(killed(inputs).sum(), inputs)[0].any())
    broken = StopGradient(network, keep_graph=False)
    assert torch.autograd.grad(broken(inputs).sum(), inputs, allow_unused=True)[0] is None
    noisy = DropoutOn(network).eval()
    assert not torch.equal(noisy(inputs), noisy(inputs))
    normed = BatchStatistics(build("resnet18", seed=0, width=2, input_shape=(1, 8, 8)))
    normed.eval()
    assert not normed.network.training
    assert not torch.allclose(normed(inputs)[:4], normed(inputs[:4]), atol=1e-3)
