"""A last log-softmax takes one number off all logits: the proof of a margin is that of the logits before it."""

import copy

import pytest
import torch
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.certificates.graph.operations import LogSoftmax
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS
from trustbound.certificates.slack import disturbance
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.margin import margin_rows
from trustbound.threat import Threat

BOX = (0.0, 1.0)
DETERMINISTIC = [row for row in CERTIFIERS if row.deterministic and row.layers]
NAMES = [row.name for row in DETERMINISTIC]


def pair(dtype=torch.float32):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 4)).to(dtype)
    plain[-1].weight.data.mul_(10)
    inputs = torch.rand(40, 6, dtype=dtype)
    return plain, nn.Sequential(*copy.deepcopy(list(plain)), nn.LogSoftmax(1)), inputs, plain(inputs).argmax(1)


SIZES = ("linf:0.02", "l2:0.06", "l1:0.1", "linf:0.02;goal=target:1")


@pytest.mark.parametrize(
    ("name", "text"), [(row.name, text) for row in DETERMINISTIC for text in SIZES if text.split(":")[0] in row.norms]
)
def test_what_is_proven_is_what_is_proven_without_it(name, text):
    plain, normalised, inputs, labels = pair()
    proofs = [certify(name, model, inputs, labels, Threat.parse(text), box=BOX) for model in (plain, normalised)]
    torch.testing.assert_close(proofs[0].margin, proofs[1].margin, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert torch.equal(proofs[0].certified, proofs[1].certified)
    assert 4 < int(proofs[0].certified.sum()) < 40
    concerned = proofs[0].margin.isfinite()
    assert bool((proofs[1].slack >= proofs[0].slack)[concerned].all())
    assert bool((proofs[1].slack <= 20 * proofs[0].slack)[concerned].all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_no_point_of_the_region_is_below_the_bound(name, dtype):
    plain, normalised, inputs, labels = pair(dtype)
    certifier, graph = resolve(name)[0], read(normalised, inputs)
    region = Region.around(inputs, BOX, "linf", 0.01)
    bound = certifier.margins(graph, region, labels)
    rows = margin_rows(labels, 4)
    exact = copy.deepcopy(plain).double()
    for _ in range(200):
        share = torch.rand(inputs.shape, dtype=torch.float64)
        points = region.low + (region.high - region.low) * torch.where(
            torch.rand(len(share), 1) < 0.5, share.round(), share
        )
        points = points.to(dtype)
        kept = ((points >= region.low) & (points <= region.high)).all(1)
        run = torch.bmm(rows, normalised(points).double().unsqueeze(2)).squeeze(2).amin(1)
        truth = torch.bmm(rows, exact(points.double()).unsqueeze(2)).squeeze(2).amin(1)
        assert bool((run >= bound.run)[kept].all())
        assert bool((truth >= bound.value - 1e-9)[kept].all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_the_kernel_rounds_no_more_than_is_allowed(dtype, classes):
    noise = torch.Generator().manual_seed(0)
    step = LogSoftmax(sources=(0,), shape=(classes,), dtype=dtype)
    for size in (1e-6, 1e-2, 1.0, 30.0, 1e3, 1e4):
        for shift in (0.0, 1.0, 10.0):
            logits = torch.randn(64, classes, generator=noise, dtype=torch.float64) * size
            logits = (logits + shift * size).to(dtype)
            _, error = disturbance(step, [logits.double().abs()])
            off = logits.log_softmax(1).double() - logits.double()
            # What all logits of an example share is no error: compare differences with the first.
            known = (error + error[:, :1]).isfinite()
            assert bool((off - off[:, :1]).abs().le(error + error[:, :1])[known].all()), (size, shift)
            assert size > 1e3 or bool(known.all())


def test_beyond_the_range_nothing_is_known():
    step = LogSoftmax(sources=(0,), shape=(2,), dtype=torch.float16)
    _, error = disturbance(step, [torch.tensor([[4e4, 4e4], [1e4, 1e4]], dtype=torch.float64)])
    assert error.isinf().all(1).tolist() == [True, False]


@pytest.mark.parametrize("name", NAMES)
def test_rows_that_see_the_shift_are_refused(name):
    _, normalised, inputs, _ = pair()
    region = Region.around(inputs, BOX, "linf", 0.01)
    rows = torch.eye(4, dtype=torch.float64).expand(len(inputs), -1, -1)
    with pytest.raises(InputError, match="sum to zero"):
        resolve(name)[0].bounds(read(normalised, inputs), region, rows)


class Going(nn.Module):
    def __init__(self, rest):
        super().__init__()
        self.first, self.rest = nn.Linear(6, 4), rest

    def forward(self, inputs):
        return self.rest(self.first(inputs).log_softmax(1))


@pytest.mark.parametrize("rest", [nn.ReLU(), nn.Linear(4, 2), nn.Sequential(nn.ReLU(), nn.LogSoftmax(1))])
def test_before_any_other_step_it_has_no_proof(rest):
    with pytest.raises(UnsupportedError, match="as the last step only"):
        read(Going(rest), torch.rand(2, 6))


def test_over_another_axis_it_has_no_proof():
    with pytest.raises(UnsupportedError, match="another axis"):
        read(nn.Sequential(nn.Unflatten(1, (2, 3)), nn.LogSoftmax(2), nn.Flatten()), torch.rand(2, 6))
    with pytest.raises(UnsupportedError, match="another axis"):
        read(nn.Sequential(nn.LogSoftmax(0)), torch.rand(2, 6))
