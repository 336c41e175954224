"""Reading a module: every operation of the table agrees with it, the rest is refused by name, nothing is changed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustbound.certificates.graph import read
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.operations import Arrange, Input, Linear, Scale
from trustbound.errors import InputError, UnsupportedError


class Forward(nn.Module):
    """A function of the inputs with a linear head behind it, some weights and a buffer."""

    def __init__(self, function, features):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        self.register_buffer("shift", torch.linspace(-1, 1, 3).reshape(3, 1, 1))
        self.head = nn.Linear(features, 2)

    def forward(self, inputs):
        return self.head(self.function(self, inputs).flatten(1))


SUPPORTED = {
    "conv with groups": (lambda m, x: F.conv2d(x, torch.ones(6, 1, 2, 3).to(x), groups=3, stride=(2, 1)), 6 * 3 * 4),
    "conv same": (lambda m, x: F.conv2d(x, m.weight[:3, :, None, None], padding="same"), 3 * 36),
    "conv1d": (lambda m, x: F.conv1d(x.flatten(2), torch.ones(2, 3, 5).to(x), torch.ones(2).to(x), 2, 1), 2 * 17),
    "batch norm": (lambda m, x: F.batch_norm(x, (torch.ones(3) * 0.2).to(x), (torch.ones(3) * 2).to(x)), 108),
    "matmul": (lambda m, x: x.flatten(1).reshape(-1, 36, 3) @ m.weight.T, 144),
    "leaky": (lambda m, x: F.leaky_relu(x - 0.5, 0.3), 108),
    "relu in place": (lambda m, x: (x - 0.5).relu_() * 2, 108),
    "relu6": (lambda m, x: F.relu6(20 * x - 5), 108),
    "clamp": (lambda m, x: x.clamp(0.2, 0.7) + x.clamp(min=0.1) + x.clamp(max=0.9), 108),
    "hardtanh": (lambda m, x: F.hardtanh(3 * x - 1), 108),
    "average pool": (lambda m, x: F.avg_pool2d(x, 3, 2, 1), 27),
    "average pool without padding in the count": (
        lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        27,
    ),
    "average pool with divisor": (lambda m, x: F.avg_pool2d(x, 2, divisor_override=3), 27),
    "adaptive": (lambda m, x: F.adaptive_avg_pool2d(x, (2, 3)), 18),
    "adaptive to one": (lambda m, x: F.adaptive_avg_pool2d(x, 1), 3),
    "mean": (lambda m, x: x.mean((2, 3)) + x.mean((-1, -2), keepdim=True).flatten(1), 3),
    "max pool": (lambda m, x: F.max_pool2d(x, 3, 2, 1), 27),
    "max pool with dilation": (lambda m, x: F.max_pool2d(x, 2, 2, 0, 2, ceil_mode=True), 27),
    "reshape": (lambda m, x: x.view(x.shape[0], -1).reshape(-1, 4, 27).unsqueeze(1), 108),
    "permute": (lambda m, x: x.permute(0, 3, 1, 2).transpose(1, 2).contiguous(), 108),
    "arithmetic": (lambda m, x: 1 - (x * m.shift + 0.1 - m.shift) / 0.3 + -x, 108),
    "in-place arithmetic": (lambda m, x: (x * 2).add_(1).mul_(m.shift).sub_(x), 108),
    "sum with factor": (lambda m, x: torch.add(x, (x - 0.5).relu(), alpha=-2), 108),
    "concatenate": (lambda m, x: torch.cat([x, x.relu(), 2 * x], 2), 324),
    "concatenate one value twice": (lambda m, x: torch.cat([x, x], 1), 216),
    "concatenate with a constant": (lambda m, x: torch.cat([x, torch.ones(len(x), 1, 6, 6).to(x)], 1), 144),
    "sum": (lambda m, x: x.sum((2, 3)) + x.sum(-1, keepdim=True).flatten(1)[:, :3], 3),
    "slices": (lambda m, x: x[:, 1:, ::2, -3:].flip(1).roll(1, 2), 18),
    "parts": (lambda m, x: torch.stack([a.relu() for a in x.chunk(3, 1)], 2) * x.new_ones(1) + x[:, None], 108),
    "repeated entries": (lambda m, x: x[:, [0, 0, 2, 1, 1]].repeat(1, 1, 2, 1), 360),
    "padding": (lambda m, x: F.pad(F.pad(x, (1, 1, 2, 0), value=0.5), (1, 0, 0, 0), mode="replicate"), 216),
    "one pixel of each row": (lambda m, x: torch.stack([x[:, 0, 0, 0], x[:, 1, 2, 3]], 1), 2),
    "pixel shuffle": (lambda m, x: F.pixel_unshuffle(x, 2), 108),
    "maximum": (lambda m, x: torch.maximum(x, m.shift) + torch.minimum(m.shift, x), 108),
    "maximum of two": (lambda m, x: torch.maximum(x.flip(1), 1 - x) - 2 * torch.minimum(x.roll(1, 2), x), 108),
    "limits the wrong way round": (lambda m, x: (3 * x).clamp(2.0, 1.0) + x.clamp(-float("inf"), 0.5), 108),
    "an average pool that rounds up over whole windows": (lambda m, x: F.avg_pool2d(x, 2, 2, ceil_mode=True), 27),
    "a size as a python number": (lambda m, x: x.view(len(x), -1), 108),
    "blank memory filled": (lambda m, x: torch.zeros_like(x).add_(x) + x.new_ones(x.shape[0], 3, 6, 6), 108),
    "dropout in eval": (lambda m, x: F.dropout(x, 0.5, m.training), 108),
    "constants computed": (lambda m, x: x * (torch.arange(3) + m.weight.sum()).reshape(3, 1, 1), 108),
}


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_the_list_agrees_with_the_module(name):
    function, features = SUPPORTED[name]
    model = Forward(function, features).eval()
    chance = torch.Generator().manual_seed(1)
    inputs = torch.rand(2, 3, 6, 6, generator=chance)
    graph = read(model, inputs)
    trial = torch.randn(7, 3, 6, 6, generator=chance)
    torch.testing.assert_close(graph(trial), model(trial), atol=1e-5, rtol=1e-4)
    assert graph(trial.double()).dtype == torch.float64
    assert graph.classes == 2
    assert graph.shape == (3, 6, 6)
    for step in graph.operations:
        values = step.apply(*(torch.rand(2, *graph.operations[s].shape) for s in step.sources or (0,)))
        assert values.shape[1:] == step.shape


@pytest.mark.parametrize("name", list(SUPPORTED))
def test_transpose_and_absolute_are_what_they_say(name):
    function, features = SUPPORTED[name]
    graph = read(Forward(function, features).eval(), torch.rand(2, 3, 6, 6))
    for step in graph.operations:
        if not isinstance(step, Linear):
            continue
        operands = [torch.randn(4, *graph.operations[s].shape, dtype=torch.float64) for s in step.sources]
        zeros = [torch.zeros_like(operand) for operand in operands]
        rows = torch.randn(4, *step.shape, dtype=torch.float64)
        forward = ((step.apply(*operands) - step.apply(*zeros)) * rows).flatten(1).sum(1)
        backward = sum(
            (part * operand).flatten(1).sum(1) for part, operand in zip(step.transpose(rows), operands, strict=True)
        )
        torch.testing.assert_close(forward, backward)
        offset = step.offset(rows)
        constant = (step.apply(*zeros) * rows).flatten(1).sum(1)
        torch.testing.assert_close(torch.zeros(4).double() if offset is None else offset, constant)
        sizes = [operand.abs() for operand in operands]
        assert (step.absolute(*sizes) + 1e-12 >= (step.apply(*operands) - step.apply(*zeros)).abs()).all()


REFUSED = {
    "Mish": (nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.Mish(), nn.Linear(4, 2)), r"no proof: 2 \(Mish\)"),
    "softmax of the batch": (Forward(lambda m, x: x.softmax(0), 108), r"forward \(softmax\): over the batch"),
    "a cube": (Forward(lambda m, x: x**3, 108), r"forward \(pow\): a power other than 2"),
    "matrix times inputs": (Forward(lambda m, x: torch.eye(6) @ x, 108), r"forward \(matmul\): a matrix × inputs"),
    "quotient": (Forward(lambda m, x: 1 / (x + 1), 108), r"no proof: forward \(\w+\)"),
    "batch mean": (Forward(lambda m, x: x - x.mean(0, keepdim=True), 108), "over the batch"),
    "instance norm": (Forward(lambda m, x: F.instance_norm(x), 108), r"\(instance_norm\)"),
    "chance": (Forward(lambda m, x: x + torch.rand(3, 6, 6), 108), "a random number"),
    "integers": (
        Forward(lambda m, x: (x * 8).int().to(m.weight.dtype), 108),
        r"forward \(_to_copy\): values of torch.int32",
    ),
    "bits": (Forward(lambda m, x: x.view(torch.int32).view(torch.float32), 108), r"forward \(view\)"),
    "comparison": (Forward(lambda m, x: x * (x > 0.5), 108), r"forward \(gt\)"),
    "where": (Forward(lambda m, x: torch.where(x > 0.5, x, 0.0), 108), r"forward \(gt\)"),
    "a maximum that widens": (Forward(lambda m, x: torch.maximum(x, x[:, :1]), 108), "broadcast between features"),
    "rounded quotient": (Forward(lambda m, x: torch.div(x, 0.3, rounding_mode="floor"), 108), r"forward \(div\)"),
    "integer quotient": (Forward(lambda m, x: x // 0.3, 108), r"forward \(floor_divide\)"),
    "a slope that is a tensor": (Forward(lambda m, x: F.prelu(x, m.shift.flatten()), 108), r"forward \(prelu\)"),
    "dropout in training": (Forward(lambda m, x: F.dropout(x, 0.5, True), 108), "a random number"),
    "noise of the input's shape": (Forward(lambda m, x: x + torch.rand_like(x), 108), "a random number"),
    "memory that nobody wrote": (Forward(lambda m, x: x + torch.empty(3, 6, 6), 108), "NaN"),
    "a window cut short": (Forward(lambda m, x: F.avg_pool2d(x, 4, 4, ceil_mode=True), 12), "ceil_mode"),
    "a value of each input": (Forward(lambda m, x: x * x.sum().item(), 108), r"forward \(sum\)"),
    "a condition of torch": (
        Forward(lambda m, x: torch.cond(x[:1].sum() > 0, lambda v: v * 2, lambda v: v * 3, (x,)), 108),
        r"at test_graph.py:\d+ \(<lambda>\)",
    ),
    "numpy": (Forward(lambda m, x: x + torch.from_numpy(x.numpy()), 108), r"at test_graph.py:\d+ \(<lambda>\)"),
    "a limit that float32 cannot hold": (Forward(lambda m, x: x + 1e300, 108), "cannot hold"),
    "leaky above one": (Forward(lambda m, x: F.leaky_relu(x, 1.5), 108), "negative slope"),
    "short windows": (Forward(lambda m, x: F.adaptive_avg_pool2d(x, 4), 48), "windows of unequal size"),
    "batch axis": (Forward(lambda m, x: x.flatten().relu().reshape(x.shape), 108), "the batch axis is moved"),
    "branches": (Forward(lambda m, x: x if x.sum() > 0 else -x, 108), "torch.export cannot read"),
    "Softsign": (nn.Sequential(nn.Flatten(), nn.Linear(108, 2), nn.Softsign()), r"no proof: 2 \(Softsign\)"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_has_no_proof_is_refused_by_name(name):
    model, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=message):
        read(model.eval(), torch.rand(2, 3, 6, 6))


def test_names_are_the_users_own_behind_a_wrapper():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, inputs):
            return self.module(inputs)

    block = nn.Sequential(nn.Linear(3, 4))
    block.add_module("act", nn.Mish())
    with pytest.raises(UnsupportedError, match=r"no proof: act \(Mish\)"):
        read(Wrapper(block), torch.rand(2, 3))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.Dropout(0.5)])
def test_training_mode_is_refused_by_name(layer):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Flatten(), nn.Linear(108, 2))
    with pytest.raises(UnsupportedError, match=rf"no proof: 1 \({type(layer).__name__}\) is in training mode"):
        read(model.train(), torch.rand(2, 3, 6, 6))
    with pytest.raises(UnsupportedError, match=r"statistics of the batch|training mode"):
        read(
            Forward(lambda m, x: F.batch_norm(x, torch.zeros(3), torch.ones(3), training=True), 108),
            torch.rand(2, 3, 6, 6),
        )


def test_state_that_the_export_does_not_show_is_caught_by_the_trial():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(3, 2), 0

        def forward(self, inputs):
            self.calls += 1
            return self.linear(inputs) * self.calls

    with pytest.raises(UnsupportedError, match="differs from the model"):
        read(Counting(), torch.rand(2, 3))


def test_dependence_between_examples_is_caught():
    class Batch(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.linear(inputs) * len(inputs)

    with pytest.raises(UnsupportedError, match="must treat every example alike"):
        read(Batch(), torch.rand(2, 3))


@pytest.mark.parametrize(
    ("inputs", "what"),
    [(torch.rand(3), "shape"), (torch.zeros(2, 3, dtype=torch.uint8), "uint8"), (torch.rand(0, 3), "B ≥ 1")],
)
def test_inputs_that_are_no_batch_are_refused(inputs, what):
    with pytest.raises(InputError, match=what):
        read(nn.Linear(3, 2), inputs)


def test_a_fixed_float32_kernel_is_provable():
    model = Forward(lambda m, x: F.conv2d(x, torch.full((3, 3, 1, 1), 1 / 3)), 108)
    inputs = torch.rand(2, 3, 6, 6)
    graph = read(model, inputs)
    torch.testing.assert_close(graph(inputs.double()).float(), model(inputs), atol=1e-5, rtol=1e-5)


def test_outputs_that_are_not_logits_are_refused():
    with pytest.raises(UnsupportedError, match=r"logits \(B, C\)"):
        read(nn.Conv2d(3, 2, 1), torch.rand(1, 3, 6, 6))

    class Pair(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs), inputs

    with pytest.raises(UnsupportedError, match="one tensor of logits"):
        read(Pair(3, 2), torch.rand(1, 3))


def test_the_module_and_the_global_random_state_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 2))
    model.eval()
    model[0].train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[4].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    random = torch.get_rng_state()
    inputs = torch.rand(2, 3, 6, 6)
    random, kept = torch.get_rng_state(), inputs.clone()
    read(model, inputs)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert [module.training for module in model.modules()] == modes
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert not model[4].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(inputs, kept)


def test_batch_norm_and_normalisation_are_folded():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2)).eval()
    model[1].running_mean.fill_(3.0)
    kinds = [type(step) for step in read(model, torch.rand(2, 3, 6, 6)).operations]
    assert kinds == [Input, Convolution, Arrange, Dense]
    scaled = Forward(lambda m, x: (x - 0.4) / 0.2, 108).eval()
    kinds = [type(step) for step in read(scaled, torch.rand(2, 3, 6, 6)).operations]
    assert kinds == [Input, Scale, Arrange, Dense]


def test_a_value_read_twice_is_not_folded_away():
    model = Forward(lambda m, x: (y := F.conv2d(x, torch.ones(3, 3, 1, 1).to(x))) * 2 + y.relu(), 108).eval()
    inputs = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(read(model, inputs)(inputs), model(inputs), atol=1e-5, rtol=1e-5)
