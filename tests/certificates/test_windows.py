"""Rows in windows give the same bounds as rows over whole maps; memory does not grow with the batch."""

import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.graph.operations import Activation
from trustbound.certificates.methods import backward
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.windows import Window
from trustbound.certificates.region import Region


class Shortcut(nn.Module):
    """Convolutions of several kernels, strides, paddings and dilations around two shortcuts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, (3, 5), padding=(1, 2))
        self.third = nn.Conv2d(4, 5, 3, stride=2, padding=2, dilation=2)
        self.side = nn.Conv2d(4, 5, 1, stride=2)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(5 * 7 * 6, 3)

    def forward(self, inputs):
        hidden = self.first(inputs * 2 - 1).relu()
        hidden = (hidden - self.second(hidden)).relu()
        hidden = (self.norm(self.third(hidden)) + self.side(hidden)).relu()
        return self.head(hidden.flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    inputs = torch.rand(3, 2, 13, 12)
    return read(Shortcut().eval(), inputs).without_rounding(), inputs


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_windows_and_whole_maps_agree(network, norm):
    graph, inputs = network
    region = Region.around(inputs, (0.0, 1.0), norm, {"linf": 0.05, "l2": 0.3, "l1": 0.6}[norm])
    certifier = Crown()
    network = certifier.limits(graph, region)
    chance = torch.Generator().manual_seed(1)
    for place, step in enumerate(graph.operations):
        if not isinstance(step, Activation):
            continue
        place = step.sources[0]
        channels, height, width = step.shape
        at = [torch.randint(n, (40,), generator=chance) for n in (3, channels, height, width)]
        coefficients = torch.randn(40, 2, channels, 1, 1, generator=chance, dtype=torch.float64)
        small = Coefficients(owner=at[0], coefficients=coefficients, window=Window(positions=torch.stack(at[2:], 1)))
        whole = torch.zeros(40, 2, *step.shape, dtype=torch.float64)
        whole[torch.arange(40), :, :, at[2], at[3]] = coefficients[..., 0, 0]
        large = Coefficients(owner=at[0], coefficients=whole)
        found, wanted = (propagate_backward(network, place, rows).run for rows in (small, large))
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-10)


def test_gather_and_scatter_undo_each_other():
    chance = torch.Generator().manual_seed(2)
    maps = torch.randn(2, 3, 6, 5, generator=chance)
    window = Window(positions=torch.tensor([[0, 0], [2, 1], [1, 2]]), stride=(2, 2), padding=(1, 2))
    owner = torch.tensor([0, 1, 1])
    parts = window.gather(maps, owner, (4, 3))
    for g, (y, x) in enumerate([(-1, -2), (3, 0), (1, 2)]):
        for i in range(4):
            for j in range(3):
                there = 0 <= y + i < 6 and 0 <= x + j < 5
                wanted = maps[owner[g], :, y + i, x + j] if there else torch.zeros(3)
                assert torch.equal(parts[g, :, i, j], wanted)
    whole = window.scatter(parts.unsqueeze(1), (6, 5)).squeeze(1)
    inside = window.inside((6, 5), (4, 3))
    assert whole.abs().sum() == pytest.approx(float((parts * inside[:, 0]).abs().sum()))
    assert torch.equal(window.gather(whole, torch.arange(3), (4, 3)), parts)


def test_work_is_cut_to_the_memory_whatever_the_batch(network, monkeypatch):
    graph, inputs = network
    seen = []
    through = backward._back

    def watch(step, rows, *rest):
        seen.append(rows.coefficients.numel())
        return through(step, rows, *rest)

    monkeypatch.setattr(backward, "_back", watch)
    peaks, bounds = [], []
    for count in (2, 16):
        seen.clear()
        many = inputs[torch.arange(count) % 3]
        region = Region.around(many, (0.0, 1.0), "linf", 0.05)
        bounds.append(Crown(memory=2**21).margins(graph, region, torch.arange(count) % 3).run)
        peaks.append(max(seen))
    assert peaks[1] <= peaks[0] * 1.05
    assert 8 * peaks[1] <= 2**21
    torch.testing.assert_close(bounds[1][:2], bounds[0], atol=1e-10, rtol=0)


@pytest.mark.parametrize("certifier", [Interval(), Crown(), Crown(memory=2**20)])
def test_an_example_does_not_feel_its_neighbours(network, certifier):
    graph, inputs = network
    labels = torch.tensor([0, 1, 2])
    region = Region.around(inputs, (0.0, 1.0), "l2", torch.tensor([0.1, 0.4, 0.2]))
    together = certifier.margins(graph, region, labels).run
    alone = torch.cat(
        [certifier.margins(graph, region.select(slice(i, i + 1)), labels[i : i + 1]).run for i in range(3)]
    )
    turned = certifier.margins(graph, region.select(torch.tensor([2, 0, 1])), labels[[2, 0, 1]]).run
    torch.testing.assert_close(together, alone, atol=1e-11, rtol=0)
    torch.testing.assert_close(together[[2, 0, 1]], turned, atol=1e-11, rtol=0)


def test_margins_are_the_smallest_of_all_rows(network):
    from trustbound.metrics.margin import margin_rows

    graph, inputs = network
    labels = torch.tensor([2, 1, 0])
    for radius in (0.001, 0.01, 0.05):
        region = Region.around(inputs, (0.0, 1.0), "linf", radius)
        rows = Crown().bounds(graph, region, margin_rows(labels, 3)).run
        torch.testing.assert_close(Crown().margins(graph, region, labels).run, rows.amin(1), atol=1e-12, rtol=0)
