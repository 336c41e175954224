"""Bilinear resizing: read as its kernel resizes, bounded, and refused where its weights are rounded."""

import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import interval_bounds
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError


def network(resize):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), resize, nn.Conv2d(3, 2, 1), nn.Flatten())
    with torch.no_grad():
        width = body(torch.rand(1, 2, 4, 6)).shape[1]
    return nn.Sequential(body, nn.Linear(width, 3)).eval()


@pytest.mark.parametrize(
    "resize",
    [
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=(4, 1), mode="bilinear"),
        nn.Upsample(size=(2, 3), mode="bilinear"),
        nn.Upsample(size=(7, 11), mode="bilinear", align_corners=True),
        nn.UpsamplingBilinear2d(size=(4, 6)),
    ],
    ids=str,
)
def test_resized_maps_are_read_and_bounded(resize):
    model, inputs = network(resize), torch.rand(4, 2, 4, 6, generator=torch.Generator().manual_seed(1))
    graph = read(model, inputs)
    region = Region.around(inputs, (0.0, 1.0), "linf", 0.05)
    rows = torch.eye(3, dtype=torch.float64).repeat(4, 1, 1)
    crown, found = Crown().bounds(graph, region, rows), interval_bounds(graph, region)[-1]
    assert (crown.run >= found.low - 1e-9).all()
    for seed in range(40):
        share = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        points = torch.lerp(region.low, region.high, share.round() if seed % 2 else share)
        outputs = model(points.float()).double()
        assert ((outputs >= crown.run) & (outputs <= found.high)).all()


def test_weights_that_float32_rounds_are_refused():
    with pytest.raises(UnsupportedError, match=r"no proof: .*from 6 to 10, whose weights float32 rounds"):
        read(network(nn.Upsample(size=(4, 10), mode="bilinear")), torch.rand(1, 2, 4, 6))
