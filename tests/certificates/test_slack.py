"""Rounding of the network as it runs: never more than was allowed for, and no proof thrown away for it."""

import copy
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.graph.kernels import check_kernels, operand_roundoff
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.methods.lipschitz import Lipschitz
from trustbound.certificates.region import Region
from trustbound.certificates.slack import disturbance, growth
from trustbound.errors import UnsupportedError
from trustbound.metrics.margin import margin_rows
from trustbound.model.wrapping import wrap
from trustbound.threat import Threat

BOX = (0.0, 1.0)


def fully_connected(depth, width, seed=0, classes=4):
    torch.manual_seed(seed)
    sizes = [12] + [width] * depth
    layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, classes))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
    return model


def small_convolution(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.01, 2.0)
    return model


@pytest.mark.parametrize("depth", [3, 6, 9])
def test_float32_keeps_the_proofs_of_its_float64_copy(depth):
    # Through |W| layer by layer the allowance of a 9-layer network exceeds every margin.
    model = fully_connected(depth, 64)
    inputs = 0.4 + 0.2 * torch.rand(24, 12)
    labels = model(inputs).argmax(1)
    single, double = (
        certify("crown", net, x, labels, Threat.parse("linf:0.003"), box=BOX)
        for net, x in ((model, inputs), (copy.deepcopy(model).double(), inputs.double()))
    )
    assert double.certified.sum() >= 12
    assert single.certified.sum() >= 0.98 * double.certified.sum()
    assert (single.slack <= 1e-3).all()
    assert not (single.certified & ~double.certified).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [lambda: fully_connected(2, 6), small_convolution], ids=["dense", "convolution"])
def test_what_a_network_rounds_is_within_the_slack(make, dtype):
    model = make()
    low = copy.deepcopy(model).to(dtype)
    shape = (12,) if isinstance(model[0], nn.Linear) else (1, 8, 8)
    # Inputs that the low precision holds: converting them is a rounding of its own.
    inputs = (torch.rand(3, *shape) * 64).round() / 64
    graph = read(wrap(low), inputs)
    region = Region.around(inputs, BOX, "linf", 0.25)
    chance = torch.Generator().manual_seed(1)
    share = (torch.rand(400, 3, *shape, generator=chance) * 64).round() / 64
    points = (region.low + (region.high - region.low) * share).to(dtype).double()
    inside = ((points >= region.low) & (points <= region.high)).flatten(2).all(2)
    with torch.no_grad():
        run = low(points.flatten(0, 1).to(dtype)).double().unflatten(0, (400, 3))
    exact = graph(points.flatten(0, 1)).unflatten(0, (400, 3))
    classes = graph.classes
    rows = torch.eye(classes, dtype=torch.float64).expand(3, -1, -1)
    for certifier in (Interval(), Lipschitz(), Crown()):
        found = certifier.bounds(graph, region, rows)
        assert (found.run <= found.value).all()
        # The bound as the network runs holds for what it computes, the exact one for what it should.
        assert (run >= found.run)[inside].all()
        assert (exact >= found.value)[inside].all()
        if isinstance(certifier, Crown):
            gap = (run - exact).abs()[inside].amax(0)
            assert (gap > 0).all()
            assert bool(found.slack.isfinite().all()) or dtype == torch.bfloat16


def test_nothing_is_proven_where_a_number_may_leave_its_range():
    inputs, label = torch.tensor([[0.75, 0.25]]), torch.tensor([0])
    for dtype, size in ((torch.float32, 1e37), (torch.float16, 3e4), (torch.bfloat16, 1e37)):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
        for layer in (model[0], model[2]):
            layer.weight.data = torch.eye(2)
        model[0].weight.data *= size
        proofs = []
        for factor in (1.0, 64.0):
            grown = copy.deepcopy(model)
            grown[2].weight.data *= factor
            graph = read(grown.to(torch.float64), inputs.double())
            # The trial of `read` would refuse a module that overflows at its points: the list is given its precision.
            steps = tuple(replace(step, dtype=dtype) for step in graph.operations)
            proofs.append(
                certify("crown", replace(graph, operations=steps, dtype=dtype), inputs, label, "linf:0.05", box=BOX)
            )
        assert proofs[0].certified.all()
        assert not proofs[1].certified.any()
        assert proofs[1].slack.isinf().all()
        assert proofs[1].lost.all()


def test_parts_of_a_folded_step_may_overflow_where_their_product_does_not():
    convolution, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)
    convolution.weight.data.fill_(1e20)
    norm.running_var.fill_(1e37)
    norm.weight.data.fill_(1e-1)
    model = nn.Sequential(convolution, norm, nn.Flatten(), nn.Linear(4, 2)).eval()
    inputs = torch.rand(1, 1, 2, 2)
    graph = read(model, inputs)
    merged = graph.operations[1]
    assert len(merged.parts) == 2
    assert disturbance(merged, [torch.full((1, 1, 2, 2), 1.0, dtype=torch.float64)])[1].isfinite().all()
    assert disturbance(merged, [torch.full((1, 1, 2, 2), 1e19, dtype=torch.float64)])[1].isinf().all()


def test_long_sums_in_bfloat16_are_not_believed():
    # n · u reaches 1/2: the formula's denominator would turn negative beyond.
    assert growth(90, torch.bfloat16) > 0.5
    assert growth(112, torch.bfloat16) == growth(512, torch.bfloat16) == math.inf
    model = nn.Linear(600, 2).to(torch.bfloat16)
    model.bias.data = torch.tensor([8.0, 0.0], dtype=torch.bfloat16)
    inputs = torch.zeros(1, 600)
    proof = certify("crown", wrap(model), inputs, torch.tensor([0]), Threat.parse("linf:0.001"))
    assert proof.lost.all()
    assert proof.slack.isinf().all()
    assert not proof.certified.any()


def test_the_precision_of_each_step_counts():
    model = fully_connected(2, 8)
    inputs = torch.rand(2, 12)
    graph = read(model, inputs)
    region = Region.around(inputs, BOX, "linf", 0.01)
    rows = margin_rows(torch.tensor([0, 1]), 4)
    coarse = replace(
        graph, operations=(*graph.operations[:-1], replace(graph.operations[-1], dtype=torch.bfloat16)), cache={}
    )
    for certifier in (Interval(), Lipschitz(), Crown()):
        single, mixed = (certifier.bounds(g, region, rows).slack for g in (graph, coarse))
        assert (mixed > 100 * single).all()


def test_mean_and_average_pool_sum_before_they_divide():
    for pool in (nn.AdaptiveAvgPool2d(1), nn.AvgPool2d(4)):
        model = nn.Sequential(pool, nn.Flatten(), nn.Linear(1, 2))
        step = replace(read(model, torch.rand(1, 1, 4, 4)).operations[1], dtype=torch.float16)
        assert disturbance(step, [torch.full((1, 1, 4, 4), 4_000.0, dtype=torch.float64)])[1].isfinite().all()
        assert disturbance(step, [torch.full((1, 1, 4, 4), 5_000.0, dtype=torch.float64)])[1].isinf().all()


def test_transformed_convolutions_are_refused_and_cut_operands_charged(monkeypatch):
    model, inputs = small_convolution(), torch.rand(1, 1, 8, 8)
    graph = read(model, inputs)
    check_kernels(graph)
    with pytest.raises(UnsupportedError, match=r"no proof: 0 \(Conv2d\): cuDNN may compute .* Winograd or FFT"):
        check_kernels(replace(graph, device=torch.device("cuda")))
    with pytest.raises(UnsupportedError, match="rounding of kernels on 'mps' devices is not known"):
        check_kernels(replace(graph, device=torch.device("mps")))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.nnpack, "is_available", lambda: True)
    with pytest.raises(UnsupportedError, match="NNPACK may compute"):
        certify("crown", graph, inputs, torch.tensor([0]), Threat.parse("linf:0.1"), box=BOX)
    dense = read(nn.Linear(3, 2), torch.rand(1, 3)).operations[1]
    plain = disturbance(dense, [torch.ones(1, 3, dtype=torch.float64)])[1]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert (disturbance(dense, [torch.ones(1, 3, dtype=torch.float64)])[1] > 1_000 * plain).all()


def test_rounding_is_what_costs_the_proof_and_is_said():
    close = torch.tensor([[0.5 + 2**-23, 0.5], [0.9, 0.1], [0.5, 0.5]])
    linear = nn.Linear(2, 2, bias=False)
    nn.init.eye_(linear.weight)
    threat = Threat.parse("linf:0")
    proof = certify("crown", linear, close, torch.zeros(3, dtype=torch.long), threat, box=BOX)
    assert proof.certified.tolist() == [False, True, False]
    without = certify(
        "crown", read(linear, close).without_rounding(), close, torch.zeros(3, dtype=torch.long), threat, box=BOX
    )
    assert not without.lost.any()


def test_the_newer_switches_of_products_are_read_too():
    host, cuda = torch.device("cpu"), torch.device("cuda")
    conv, matmul = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = conv.fp32_precision, matmul.fp32_precision

    def cuts():
        return [operand_roundoff(host, convolution) for convolution in (None, True, False)]

    assert cuts() == [0, 0, 0]
    assert operand_roundoff(cuda, convolution=True) == 2.0**-11
    try:
        conv.fp32_precision = "bf16"
        assert cuts() == [2.0**-8, 2.0**-8, 0]
        conv.fp32_precision, matmul.fp32_precision = "ieee", "bf16"  # torch refuses to read the older one now
        assert cuts() == [2.0**-8, 0, 2.0**-8]
    finally:
        conv.fp32_precision, matmul.fp32_precision = before
    assert cuts() == [0, 0, 0]
