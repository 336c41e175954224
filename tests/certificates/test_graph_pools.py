"""Pools over batches without an axis of channels, which torch takes for one example: each row is pooled by itself."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.errors import UnsupportedError
from trustbound.threat import Threat


class Pooled(nn.Module):
    """A layer, a pool over what it gives, and a linear head."""

    def __init__(self, shape, pool):
        super().__init__()
        self.shape, self.pool = shape, pool
        torch.manual_seed(0)
        self.body = nn.Linear(8, torch.Size(shape).numel())
        width = pool(self.body(torch.zeros(2, 8)).reshape(2, *shape)).flatten(1).shape[1]
        self.head = nn.Linear(width, 3)

    def forward(self, inputs):
        return self.head(self.pool(self.body(inputs).relu().reshape(-1, *self.shape)).flatten(1))


POOLS = {
    "max": ((6, 6), lambda z: F.max_pool2d(z, 2)),
    "max, overlapping": ((5, 6), lambda z: F.max_pool2d(z, 3, 2, padding=1)),
    "average": ((6, 4), lambda z: F.avg_pool2d(z, 2)),
    "average, padded": ((6, 4), lambda z: F.avg_pool2d(z, 3, 1, padding=1, count_include_pad=False)),
    "adaptive": ((6, 4), lambda z: F.adaptive_avg_pool2d(z, 1)),
    "adaptive to parts": ((6, 4), lambda z: F.adaptive_avg_pool2d(z, (3, 2))),
    "adaptive over channels": ((2, 6, 4), lambda z: F.adaptive_avg_pool2d(z, 1)),
    "adaptive, one axis": ((2, 6), lambda z: F.adaptive_avg_pool1d(z, 1)),
    "adaptive, rows of one axis": ((6,), lambda z: F.adaptive_avg_pool1d(z, 1)),
}


@pytest.mark.parametrize("name", list(POOLS))
def test_pools_are_bounded_with_and_without_channels(name):
    model = Pooled(*POOLS[name]).eval()
    inputs = torch.rand(4, 8)
    graph = read(model, inputs)
    torch.testing.assert_close(graph(inputs.double()).float(), model(inputs))
    labels = model(inputs).argmax(1)
    for certifier in ("interval", "crown"):
        proof = certify(certifier, graph, inputs, labels, Threat.parse("linf:0.02"), box=(0.0, 1.0))
        near = (inputs + (torch.rand(200, *inputs.shape) * 2 - 1) * 0.02).clamp(0, 1)
        logits = model(near.reshape(-1, 8)).reshape(200, 4, 3)
        own = logits.gather(2, labels.expand(200, 4).unsqueeze(2))
        rest = logits.scatter(2, labels.expand(200, 4).unsqueeze(2), -torch.inf).amax(2)
        assert (proof.margin <= (own.squeeze(2) - rest).amin(0).double() + 1e-5).all()
        assert proof.margin.isfinite().all()


def test_parts_of_one_axis_are_refused_by_name():
    with pytest.raises(UnsupportedError, match="windows of unequal size"):
        read(Pooled((6,), lambda z: F.adaptive_avg_pool1d(z, 2)).eval(), torch.rand(2, 8))
