"""LipSDP: between what is attained and the product of norms, as near to the optimum as another solver finds it."""

import itertools

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.sensitivity import semidefinite
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.semidefinite import lipsdp
from trustbound.errors import UnsupportedError


def dense(activation, widths=(2, 12, 10, 3)):
    torch.manual_seed(0)
    layers = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    network = nn.Sequential(*layers[:-1]).double()
    for weight in network.parameters():
        weight.data *= 2
    return network


def lipsdp_of(network, *shape):
    return lipsdp(read(network, torch.rand(1, *shape, dtype=torch.float64)))


def steepest(network):
    """The largest norm of the Jacobian on a fine grid of the plane, far beyond the box."""
    side = torch.linspace(-2, 3, 80, dtype=torch.float64)
    points = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    return float(torch.linalg.matrix_norm(torch.vmap(torch.func.jacrev(network))(points).detach(), 2).max())


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU, lambda: nn.LeakyReLU(0.2)])
def test_it_lies_between_the_steepest_gradient_and_the_product(activation):
    network = dense(activation)
    found = lipsdp_of(network, 2)
    assert steepest(network) <= found < 0.9 * gains(read(network, torch.rand(1, 2, dtype=torch.float64)))[-1]


@pytest.mark.parametrize(("activation", "elsewhere"), [(nn.ReLU, 2.8148279885874445), (nn.SiLU, 7.145821166011841)])
def test_it_is_the_optimum_that_another_solver_finds(activation, elsewhere):
    """The same programme, given to Clarabel 0.11.1."""
    assert lipsdp_of(dense(activation), 2) == pytest.approx(elsewhere, rel=1e-5)


def test_linear_and_diagonal_networks_have_their_constant():
    network = dense(nn.ReLU)
    linear = nn.Sequential(network[0], network[2], network[4])
    matrix = network[4].weight @ network[2].weight @ network[0].weight
    assert lipsdp_of(linear, 2) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2).detach()), rel=1e-6)
    # Units that do not meet: the largest product along one of them, where the product of norms is 9.
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)).double()
    network[0].weight.data = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    network[2].weight.data = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert lipsdp_of(network, 2) == pytest.approx(3.0, rel=1e-4)
    network[2].weight.data *= 0
    assert lipsdp_of(network, 2) < 1e-100


def test_wider_inputs_convolutions_and_pools_are_read_as_matrices():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(), nn.Linear(12, 4))
    model, inputs = tb.wrap(network, box=(0.0, 1.0), mean=[0.5], std=[0.5]), torch.rand(4, 1, 7, 7)
    found = tb.lipschitz(model, inputs, semidefinite=True)
    assert 0 < found.lower["l2"] <= found.semidefinite < found.upper["l2"]
    assert "by LipSDP" in repr(found)


class Sine(nn.Module):
    def forward(self, inputs):
        return inputs.sin()


def test_waves_fall_as_steeply_as_they_rise():
    network = dense(Sine)
    assert steepest(network) <= lipsdp_of(network, 2)


def test_slopes_that_are_taken_too_small_are_seen(monkeypatch):
    network = dense(nn.ReLU)
    monkeypatch.setattr(semidefinite, "_slopes", lambda step: (0.0, 0.3))
    assert lipsdp_of(network, 2) < steepest(network)


def test_what_it_does_not_serve_is_refused_by_name():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, inputs):
            return inputs + self.inner(inputs).relu()

    with pytest.raises(UnsupportedError, match=r"no LipSDP: forward .*no chain"):
        lipsdp_of(Residual().double(), 3)
    with pytest.raises(UnsupportedError, match=r"no LipSDP: 0 \(MaxPool2d\): neither linear"):
        lipsdp_of(nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2)).double(), 1, 4, 4)
    with pytest.raises(UnsupportedError, match="at most 600 numbers in all hidden layers; got 1000"):
        lipsdp_of(dense(nn.ReLU, (4, 500, 500, 2)), 4)
