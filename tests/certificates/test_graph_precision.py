"""Precision: every step says in which the module computes it, and a change of precision is a step of its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.graph.gathering import Cast
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.operations import Activation, Input, Scale
from trustbound.errors import UnsupportedError
from trustbound.model import wrap
from trustbound.threat import Threat


class Forward(nn.Module):
    """Two layers and a function that puts them together."""

    def __init__(self, function, head=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3).to(head)

    def forward(self, inputs):
        return self.function(self, inputs)


def autocast(module, inputs):
    with torch.autocast("cpu", torch.bfloat16):
        hidden = module.body(inputs)
    return module.head(hidden.float())


F32, BF16, F16, F64 = torch.float32, torch.bfloat16, torch.float16, torch.float64
READ = {
    "a cast that changes nothing": (lambda m, x: m.head(m.body(x.float()).relu()), F32, [F32] * 4),
    "outputs cast up": (lambda m, x: m.head(m.body(x).relu()).double(), F32, [F32, F32, F32, F32, F64]),
    "outputs cast down": (lambda m, x: m.head(m.body(x).relu()).half(), F32, [F32, F32, F32, F32, F16]),
    "inputs through bfloat16": (lambda m, x: m.head(m.body(x.bfloat16().float())), F32, [F32, BF16, F32, F32, F32]),
    "a bfloat16 head": (
        lambda m, x: m.head(m.body(x).relu().bfloat16()).float(),
        BF16,
        [F32, F32, F32, BF16, BF16, F32],
    ),
    "autocast": (autocast, F32, [F32, BF16, BF16, F32, F32]),
    "type_as": (lambda m, x: m.head(m.body(x).type_as(m.head.weight)), BF16, [F32, F32, BF16, BF16]),
    "a float16 value changed in place by float32": (
        lambda m, x: m.head(m.body(x).half().mul_(m.body.bias).float()),
        F32,
        [F32, F32, F16, F32, F16, F32, F32],
    ),
    "parts of two precisions": (
        lambda m, x: m.head(torch.cat([m.body(x).half()[:, :3], m.body(x)[:, 3:]], 1)),
        F32,
        [F32, F32, F16, F16, F32, F32, F32, F32, F32],
    ),
}


@pytest.mark.parametrize("name", list(READ))
def test_every_step_has_the_precision_in_which_the_module_computes_it(name):
    function, head, wanted = READ[name]
    model = Forward(function, head).eval()
    graph = read(model, torch.rand(2, 4))
    assert sorted(map(str, (step.dtype for step in graph.operations))) == sorted(map(str, wanted))
    assert graph.dtype == max(wanted, key=lambda dtype: torch.finfo(dtype).eps)
    points = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    found, own = graph(points.double()), model(points).double().detach()
    coarse = torch.finfo(graph.dtype).eps
    assert float((found - own).abs().max()) <= 8 * coarse * float(found.abs().max())


def test_a_cast_rounds_only_where_the_target_is_narrower():
    graph = read(Forward(READ["a bfloat16 head"][0], BF16), torch.rand(2, 4))
    casts = [step for step in graph.operations if isinstance(step, Cast)]
    assert [(step.origin, step.dtype, step.exact) for step in casts] == [(F32, BF16, False), (BF16, F32, True)]
    for origin, dtype, exact in [(F16, BF16, False), (BF16, F16, False), (F16, F32, True), (F32, F64, True)]:
        assert Cast.of(0, (2,), "", origin, dtype).exact is exact


def test_a_head_in_bfloat16_is_not_certified_in_float32():
    """With the precision of the first parameter alone, the margin of one bfloat16 step is taken for proven."""

    class Close(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False).bfloat16()
            with torch.no_grad():
                self.body.weight.copy_(torch.eye(2))
                self.head.weight.copy_(torch.eye(2))

        def forward(self, inputs):
            return self.head(self.body(inputs).to(self.head.weight.dtype)).to(inputs.dtype)

    model = wrap(Close())
    inputs, labels = torch.tensor([[0.5010, 0.5000]]), torch.tensor([0])
    assert float(model(inputs).diff()) == 0.0  # in bfloat16 the two are one number: neither class wins
    proof = certify("interval", model, inputs, labels, Threat.parse("linf:0.0001"))
    assert float(proof.margin) > 0
    assert not bool(proof.certified)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_what_a_python_number_is_in_the_module(dtype):
    """Torch multiplies float32 by the number rounded to float32, coarser types by its float32 value or by their own.

    The list keeps the double: it differs from either by one rounding of the constant, which every step's γ covers.
    """
    inputs = torch.linspace(0.1, 3.0, 1000).to(dtype)
    for number in (0.1, 1 / 3, 0.3):
        product = (inputs * number).double()
        rounded = [inputs.double() * torch.tensor(number, dtype=kind).double() for kind in (F32, dtype)]
        assert any(torch.equal(product, each.to(dtype).double()) for each in rounded)
        assert not torch.equal(product, (inputs.double() * number).to(dtype).double()) or dtype != F32
        graph = read(Forward(lambda m, x, n=number: m.head(m.body(x) * n), F32).to(dtype), torch.rand(2, 4))
        dense = [step for step in graph.operations if isinstance(step, Dense)]
        assert dense[0].dtype == dtype
        error = (product - inputs.double() * number).abs()
        assert float((error / (inputs.double() * number)).max()) <= 2.1 * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(("dtype", "number"), [(F16, 1e5), (F16, 1e-8), (F32, 1e39), (F32, 1e-60)])
def test_a_number_that_the_precision_cannot_hold_is_refused(dtype, number):
    model = Forward(lambda m, x: m.head(m.body(x) * number)).to(dtype)
    with pytest.raises(UnsupportedError, match="cannot hold"):
        read(model, torch.rand(2, 4))


def test_constants_are_computed_in_the_modules_own_precision():
    model = Forward(lambda m, x: m.head(m.body(x) * (1 / (m.body.bias.exp() + 3))))
    graph = read(model, torch.rand(2, 4))
    step = next(step for step in graph.operations if isinstance(step, Dense))
    own = 1 / (model.body.bias.exp() + 3)
    torch.testing.assert_close(step.weight, model.body.weight.double() * own.double()[:, None], rtol=0, atol=1e-16)
    assert not torch.equal(own.double(), 1 / (model.body.bias.double().exp() + 3))


def test_a_fixed_float32_kernel_and_normalisation_are_one_precision():
    class Blur(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.head = nn.Conv2d(1, 2, 3), nn.Linear(8, 2)
            self.kernel = torch.full((1, 1, 3, 3), 1 / 9)

        def forward(self, inputs):
            return self.head(self.convolution(F.conv2d(inputs.float(), self.kernel)).relu().flatten(1))

    graph = read(wrap(Blur().eval(), mean=0.5, std=0.25), torch.rand(2, 1, 6, 6))
    kinds = [type(step) for step in graph.operations]
    assert kinds[:5] == [Input, Scale, Convolution, Convolution, Activation]
    assert {step.dtype for step in graph.operations} == {F32}


def test_folding_keeps_precisions_apart():
    model = Forward(lambda m, x: m.head((m.body(x) * 0.5).bfloat16().float() * 3))
    kinds = [(type(step), step.dtype) for step in read(model, torch.rand(2, 4)).operations]
    assert kinds == [(Input, F32), (Dense, F32), (Cast, BF16), (Cast, F32), (Scale, F32), (Dense, F32)]


@pytest.mark.parametrize("dtype", [F64, F32, BF16, F16])
def test_whole_modules_in_one_precision(dtype):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU6(), nn.Flatten(), nn.Linear(32, 3))
    model = wrap(model.eval().to(dtype), mean=0.25, std=0.5)
    inputs = torch.rand(3, 1, 6, 6)
    graph = read(model, inputs)
    assert graph.dtype == dtype
    # The steps between the two limits are not computed by the module: they round nothing.
    assert {step.dtype for step in graph.operations[2 if dtype in (BF16, F16) else 1 :]} <= {dtype, F64}
    gap = (graph(inputs.double()) - model(inputs).double()).detach().abs().max()
    assert float(gap) <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [BF16, F16])
def test_a_narrow_model_rounds_inputs_that_are_kept_in_float32(dtype):
    """Inputs inside a ball leave it when they are rounded: the list begins with that."""
    model = wrap(nn.Sequential(nn.Linear(4, 3)).to(dtype))
    steps = read(model, torch.rand(2, 4)).operations
    assert [(type(step), step.dtype) for step in steps] == [(Input, F32), (Cast, dtype), (Dense, dtype)]
    steps = read(model.module, torch.rand(2, 4)).operations  # called without the wrapper it is fed its own precision
    assert [(type(step), step.dtype) for step in steps] == [(Input, dtype), (Dense, dtype)]


def test_a_module_that_casts_its_own_inputs_is_read_on_them_as_they_are():
    """Float64 weights say nothing of what is computed before the cast: in float32, if that is what comes."""

    class Late(nn.Linear):
        def forward(self, inputs):
            return super().forward(((inputs + 1) * 0.3).double())

    model = Late(4, 3, dtype=F64)
    assert [step.dtype for step in read(model, torch.rand(2, 4)).operations][:2] == [F32, F32]
    assert {step.dtype for step in read(model, torch.rand(2, 4, dtype=F64)).operations} == {F64}
    # One that does not take them is called in its weights' precision, as before.
    assert {step.dtype for step in read(nn.Linear(4, 3, dtype=F64), torch.rand(2, 4)).operations} == {F64}


def test_a_model_that_overflows_inside_the_box_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        model[0].weight.fill_(100.0)
    read(wrap(model), torch.rand(2, 4))
    with pytest.raises(UnsupportedError, match=r"NaN or infinite.*precision"):
        read(wrap(model, box=(0.0, 255.0)), torch.rand(2, 4))
