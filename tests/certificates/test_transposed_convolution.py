"""Transposed convolutions: read in every form, their transposes and norms exact, their certificates attacked."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.certificates.graph import read
from trustbound.certificates.graph.transposed_convolution import TransposedConvolution
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import interval_bounds
from trustbound.certificates.region import Region
from trustbound.certificates.sensitivity.operator_norms import operator_norm
from trustbound.errors import UnsupportedError
from trustbound.threat.random import Random

FORMS = [
    (nn.ConvTranspose1d(2, 3, 3, stride=2, padding=1, output_padding=1), (2, 5)),
    (nn.ConvTranspose1d(4, 6, 2, dilation=3, groups=2, output_padding=2, bias=False), (4, 4)),
    (nn.ConvTranspose2d(2, 3, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)), (2, 4, 3)),
    (nn.ConvTranspose2d(4, 4, 3, padding=2, dilation=2, groups=4), (4, 5, 5)),
    (nn.ConvTranspose2d(3, 2, 1, stride=3), (3, 2, 2)),
    (nn.ConvTranspose2d(2, 2, 3, padding=2), (2, 4, 4)),
    (nn.ConvTranspose3d(2, 2, 2, stride=2, output_padding=(1, 0, 1)), (2, 2, 3, 2)),
]


def steps():
    """Each form as it is read, and its map as a dense matrix."""
    torch.manual_seed(0)
    for part, shape in FORMS:
        model = nn.Sequential(part, nn.Flatten()).eval()
        graph = read(model, torch.rand(3, *shape))
        step = next(step for step in graph.operations if isinstance(step, TransposedConvolution))
        units = torch.eye(step.extent[0] * torch.tensor(step.extent[1:]).prod().item(), dtype=torch.float64)
        units = units.reshape(-1, *step.extent)
        bias = step.apply(torch.zeros_like(units[:1]))
        yield step, (step.apply(units) - bias).flatten(1).T


def test_transpose_absolute_and_norms_are_those_of_the_dense_matrix():
    for step, matrix in steps():
        rows = torch.randn(5, *step.shape, dtype=torch.float64)
        (back,) = step.transpose(rows)
        torch.testing.assert_close(back.flatten(1), rows.flatten(1) @ matrix)
        sizes = torch.rand(4, *step.extent, dtype=torch.float64)
        torch.testing.assert_close(step.absolute(sizes).flatten(1), sizes.flatten(1) @ matrix.abs().T)
        torch.testing.assert_close(step.squares(sizes[0]).flatten(), matrix.square() @ sizes[0].flatten())
        peaks = step.largest(sizes[0])
        assert (peaks.flatten() >= (matrix.abs() * sizes[0].flatten()).amax(1)).all()
        truth = float(torch.linalg.matrix_norm(matrix, 2))
        assert truth <= operator_norm(step, step.extent) <= 1.6 * truth
        assert step.terms >= int((matrix != 0).sum(1).max())
        assert step.terms >= int((matrix != 0).sum(0).max())


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 2, stride=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 2, 2, groups=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(98, 4),
    ).eval()


@pytest.mark.parametrize("norm", ["linf:0.05", "l2:0.2", "l1:0.4"])
def test_bounds_hold_what_is_sampled(norm):
    model = network(0)
    inputs = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = model(inputs).argmax(1)
    threat = tb.Threat.parse(norm)
    graph = read(model, inputs)
    region = Region.around(inputs, (0.0, 1.0), threat.perturbations.norm, threat.perturbations.epsilon)
    crown, found = Crown().margins(graph, region, labels), interval_bounds(graph, region)[-1]
    ball, rows = threat.perturbations.around(inputs, tb.Box(0.0, 1.0)), torch.arange(5)
    for draw in range(40):
        logits = model(ball.start(Random(draw, rows).stream("test"), 0)).double()
        assert ((logits >= found.low) & (logits <= found.high)).all()
        right = logits.gather(1, labels.unsqueeze(1))
        margins = right - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1, keepdim=True)
        assert (margins[:, 0] >= crown.run).all()


@pytest.mark.parametrize("method", ["lipschitz", "crown", "branch-and-bound"])
def test_no_attack_breaks_what_is_certified(method):
    model, params = network(2), {"timeout": 0.3} if method == "branch-and-bound" else {}
    inputs = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(4))
    labels = model(inputs).argmax(1)
    threat = "l2:0.05" if method == "lipschitz" else "linf:0.01"
    proof = tb.certify(method, model, inputs, labels, threat, box=(0, 1), **params)
    found = tb.attack("pgd", tb.wrap(model, box=(0, 1), classes=4), inputs, labels, threat, restarts=3)
    assert bool(proof.certified.any())
    assert not bool((proof.certified & found.success).any())


def test_an_output_without_numbers_is_refused_by_name():
    class Empty(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.head = nn.ConvTranspose2d(1, 1, 1, stride=1, padding=(1, 0)), nn.Linear(1, 2)

        def forward(self, inputs):
            return self.head(self.up(inputs).sum((2, 3)))

    with pytest.raises(UnsupportedError, match=r"an output of shape \(B, 1, 0, 4\), without numbers"):
        read(Empty().half(), torch.rand(2, 1, 2, 4).half())
