"""Attention behind a constant mask: read as it runs, bounded, and refused where the mask is no constant."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.graph.normalisation import Softmax
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError

CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
SCATTERED = torch.tensor([[1, 0, 0, 1, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]]).bool()
MASKS = {
    "causal": {"is_causal": True},
    "bool": {"attn_mask": SCATTERED},
    "minus infinity": {"attn_mask": torch.zeros(5, 5).masked_fill(~SCATTERED, -math.inf)},
    "numbers": {"attn_mask": torch.linspace(-2.0, 2.0, 25).reshape(5, 5)},
    "both": {"attn_mask": torch.linspace(-2.0, 2.0, 25).reshape(1, 1, 5, 5).masked_fill(~CAUSAL, -math.inf)},
}


class Attending(nn.Module):
    """Two heads over five tokens of four numbers."""

    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.mask = mask
        self.project, self.head = nn.Linear(4, 12), nn.Linear(20, 3)
        nn.init.normal_(self.project.weight, std=1.0)

    def forward(self, inputs):
        query, key, value = self.project(inputs).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(query, key, value, **self.mask)
        return self.head(found.transpose(1, 2).flatten(1))


def drawn(count=6):
    return torch.rand(count, 5, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MASKS)
def test_a_constant_mask_is_read_and_its_bounds_hold(name):
    model, inputs = Attending(MASKS[name]).eval(), drawn()
    graph = read(model, inputs)
    wide = inputs.double()
    torch.testing.assert_close(graph(wide), model.double()(wide), atol=1e-12, rtol=0)
    region, labels = Region.around(inputs, (0.0, 1.0), "linf", 0.1), graph(wide).argmax(1)
    crown, interval = Crown().margins(graph, region, labels), Interval().margins(graph, region, labels)
    assert (crown.value >= interval.value).all()
    assert (crown.value > interval.value + 1e-3).any()
    chance, least = torch.Generator().manual_seed(2), torch.full((len(inputs),), math.inf, dtype=torch.float64)
    for number in range(200):
        share = torch.rand(inputs.shape, generator=chance, dtype=torch.float64)
        points = region.low + (region.high - region.low) * (share.round() if number % 2 else share)
        outputs = graph(points)
        own = outputs.gather(1, labels[:, None])[:, 0]
        least = torch.minimum(least, own - outputs.scatter(1, labels[:, None], -math.inf).amax(1))
    assert (crown.value <= least).all()


def test_who_is_left_out_cannot_move_what_does_not_see_it():
    """The first token sees itself alone: whatever the others do, its answer is proven."""

    class First(Attending):
        def forward(self, inputs):
            query, key, value = self.project(inputs).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
            found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            return self.head(found.transpose(1, 2).flatten(1) * self.first)

    model, inputs = First({}).eval(), drawn()
    model.register_buffer("first", torch.tensor([1.0] * 4 + [0.0] * 16))
    region = Region.between(inputs * torch.tensor([1.0] + [0.0] * 4)[:, None], inputs.where(CAUSAL[0][:, None], 1.0))
    labels = model(inputs).argmax(1)
    graph = read(model, inputs)
    clean = Interval().margins(graph, Region.between(inputs, inputs), labels).value
    torch.testing.assert_close(Interval().margins(graph, region, labels).value, clean, atol=1e-9, rtol=0)


def test_a_mask_that_is_forgotten_is_seen(monkeypatch):
    kept = Softmax.masked
    model, inputs = Attending(MASKS["bool"]).eval(), drawn()
    graph = read(model, inputs)
    region, labels = Region.between(inputs, inputs), model(inputs).argmax(1)
    outputs = graph(inputs.double())
    own = outputs.gather(1, labels[:, None])[:, 0]
    clean = own - outputs.scatter(1, labels[:, None], -math.inf).amax(1)
    assert (Interval().margins(graph, region, labels).value <= clean).all()
    monkeypatch.setattr(Softmax, "masked", lambda step, *values: values)
    assert not (Interval().margins(graph, region, labels).value <= clean).all()
    assert kept is not Softmax.masked


def test_layers_of_torch_with_a_causal_mask_have_a_proof():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
            self.head = nn.Linear(4, 3)
            self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

        def forward(self, inputs):
            return self.head(self.body(inputs, src_mask=self.mask, is_causal=True).mean(1))

    model, inputs = Layer().eval(), drawn()
    found = certify("crown", model, inputs, model(inputs).argmax(1), "linf:0.0005", box=(0.0, 1.0))
    assert bool(found.certified.any())


class Depends(Attending):
    def forward(self, inputs):
        query, key, value = self.project(inputs).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        mask = inputs.mean(2)[:, None, None, :]
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.head(found.transpose(1, 2).flatten(1))


def test_other_masks_are_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"no proof: .*mask depends on the inputs"):
        read(Depends({}).eval(), drawn())
    blind = SCATTERED.clone()
    blind[2] = False
    with pytest.raises(UnsupportedError, match=r"no proof: .*leaves a query without any key"):
        read(Attending({"attn_mask": blind}).eval(), drawn())
