"""Modules that are more than their layers: hooks, wrappers, batches, state, and branches seen only far away."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import nn

from trustbound.certificates.graph import exporting, read, validation
from trustbound.certificates.graph.exporting import export
from trustbound.certificates.graph.folding import fold
from trustbound.certificates.graph.operations import Activation, Scale
from trustbound.certificates.graph.trial_points import trial_points, values
from trustbound.errors import UnsupportedError
from trustbound.model import wrap


def layer(seed=0, width=4):
    torch.manual_seed(seed)
    return nn.Linear(4, width)


class Forward(nn.Module):
    """A function of the inputs behind one layer."""

    def __init__(self, function):
        super().__init__()
        self.function, self.body = function, layer()

    def forward(self, inputs):
        return self.function(self, inputs)


class Double(torch.autograd.Function):
    """Twice the input, with another gradient."""

    @staticmethod
    def forward(ctx, inputs):
        return inputs * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def hooked():
    module = layer()
    module.register_forward_pre_hook(lambda owner, given: (given[0] * 3,))
    module.register_forward_hook(lambda owner, given, result: result.clamp(max=0.5))
    return nn.Sequential(module)


def shared():
    body = layer()
    return nn.Sequential(body, nn.ReLU(), body, nn.Dropout(0.5), body)


def tied():
    first, second = layer(), layer(1)
    second.weight = first.weight
    return nn.Sequential(first, nn.ReLU(), second)


READ = {
    "hooks": hooked,
    "one module used three times": shared,
    "tied weights": tied,
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(layer())),
    "weight norm of old": lambda: nn.Sequential(nn.utils.weight_norm(layer())),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(layer())),
    "data parallel": lambda: nn.DataParallel(nn.Sequential(layer())),
    "its own gradient": lambda: Forward(lambda m, x: m.body(Double.apply(x))),
    "a part compiled": lambda: nn.Sequential(torch.compile(layer(), backend="eager"), nn.ReLU()),
    "compiled": lambda: torch.compile(nn.Sequential(layer()), backend="eager"),
    "a number from a weight": lambda: Forward(lambda m, x: m.body(x) * m.body.bias.sum().item()),
    "a branch on the shape": lambda: Forward(lambda m, x: m.body(x if x.shape[1] == 4 else -x)),
    "no gradient inside": lambda: Forward(lambda m, x: m.body(x.detach())),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", list(READ))
def test_whatever_surrounds_a_layer_is_in_the_list(name):
    model = READ[name]().eval()
    inputs = torch.rand(2, 4)
    graph = read(model, inputs)
    points = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 3
    torch.testing.assert_close(graph(points.double()).float(), model(points), atol=1e-4, rtol=1e-4)


REFUSED = {
    "a branch on values": (lambda m, x: m.body(x if x.sum() > 0 else -x), r"at test_graph_modules.py:\d+ \(<lambda>\)"),
    "a branch on the batch, far": (lambda m, x: m.body(x) * (2 if len(x) > 700 else 1), "every example alike"),
    "a branch on the batch, odd": (lambda m, x: m.body(x) * (2 if x.shape[0] % 2 else 1), "every example alike"),
    "a branch on the batch, by shape": (lambda m, x: m.body(x) * (2 if x.shape[0] > 90 else 1), "every example alike"),
    "the size of the batch": (lambda m, x: m.body(x) * x.shape[0], r"forward \(mul\): the size of the batch"),
    "the length of the batch": (lambda m, x: m.body(x) * len(x), "every example alike"),
    "rows told apart": (lambda m, x: m.body(x) + torch.arange(3.0)[:, None], "every example|between the examples"),
    "transposed where square": (lambda m, x: m.body(x)[:, :3].T @ m.body(x)[:, :3], "batch axis"),
    "features told from the batch by chance": (
        lambda m, x: m.body(x)[:, :3].T,
        "batch axis",
    ),
    "the batch taken for features": (lambda m, x: m.body(x).view(3, -1)[:, :2], r"at test_graph_modules.py:\d+"),
    "one number each": (
        lambda m, x: m.body(x) * m.body(x)[:, 0, None].sum(1)[:, None],
        r"\((sum|mul)\)|features' axis",
    ),
    "a dimension dropped when alone": (lambda m, x: m.body(x.unsqueeze(1)).squeeze(), "every example alike"),
    "rows in another order": (lambda m, x: m.body(x.flip(0)), "between the examples"),
    "a neighbour": (lambda m, x: m.body(x.roll(1)), "between the examples"),
    "the batch's mean": (lambda m, x: m.body(x - x.mean(0)), "over the batch"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_hangs_on_the_batch_or_on_values_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=message) as caught:
        read(Forward(function).eval(), torch.rand(2, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_holds_no_torch_program_is_refused_by_its_place():
    scripted = torch.jit.trace(layer(), torch.rand(2, 4))
    with pytest.raises(UnsupportedError, match=r"no proof: 1 \(TopLevelTracedModule\) is TorchScript"):
        read(nn.Sequential(nn.ReLU(), scripted).eval(), torch.rand(2, 4))
    quantized = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.ReLU(), layer()))
    with pytest.raises(UnsupportedError, match=r"no proof: 1 \(Linear\) computes with integers"):
        read(quantized.eval(), torch.rand(2, 4))


def test_a_wrapped_model_is_exported_with_a_free_batch_axis():
    """A wrapper that asks for a length would have every model read once for each batch size."""
    model = wrap(nn.Sequential(layer(), nn.ReLU()).eval(), mean=0.5, std=0.5)
    assert not export(model, torch.rand(3, 4)).fixed


@pytest.fixture
def trial_alone(monkeypatch):
    """Leave it to the trial points to tell a trace from the run: forwards are told that they are traced."""
    monkeypatch.setattr(exporting, "as_if_it_ran", nullcontext)
    for module in (exporting, validation):
        monkeypatch.setattr(module, "check_same", lambda *given, **more: None)


class Hidden(nn.Module):
    """A branch that the trace does not take."""

    def __init__(self, far):
        super().__init__()
        self.body, self.far = layer(), far

    def forward(self, inputs):
        outputs = self.body(inputs)
        if torch.compiler.is_exporting() or torch.compiler.is_compiling():
            return outputs
        return torch.where(inputs.amax(1, keepdim=True) > self.far, outputs + 1e-3, outputs)


@pytest.mark.usefixtures("trial_alone")
@pytest.mark.parametrize("far", [0.999, 5.0, 50.0, 300.0])
def test_a_difference_in_corners_and_far_outside_is_found(far):
    model = wrap(Hidden(far).eval())
    with pytest.raises(UnsupportedError, match="differs from the model"):
        read(model, torch.rand(2, 4) * 0.5)


@pytest.mark.usefixtures("trial_alone")
def test_a_difference_of_one_hot_inputs_is_found():
    class Sparse(Hidden):
        def forward(self, inputs):
            outputs = self.body(inputs)
            if torch.compiler.is_exporting() or torch.compiler.is_compiling():
                return outputs
            hot = (inputs == 1).sum(1, keepdim=True) == 1
            return torch.where(hot & ((inputs == 0).sum(1, keepdim=True) == 3), outputs * 1.001, outputs)

    with pytest.raises(UnsupportedError, match="differs from the model"):
        read(wrap(Sparse(0).eval()), torch.rand(2, 4) * 0.5)


@pytest.mark.usefixtures("trial_alone")
def test_nan_differs_from_everything():
    class Missing(Hidden):
        def forward(self, inputs):
            outputs = self.body(inputs)
            if torch.compiler.is_exporting() or torch.compiler.is_compiling():
                return outputs
            return outputs.masked_fill(inputs.amin(1, keepdim=True) == 1, float("nan"))

    with pytest.raises(UnsupportedError, match="NaN or infinite"):
        read(wrap(Missing(0).eval()), torch.rand(2, 4) * 0.5)


@pytest.mark.usefixtures("trial_alone")
def test_small_logits_are_compared_as_strictly():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = layer()

        def forward(self, inputs):
            wrong = 1e-6 if not (torch.compiler.is_exporting() or torch.compiler.is_compiling()) else 0.0
            return self.body(inputs).double() * (1e-9 * (1 + wrong))

    with pytest.raises(UnsupportedError, match="differs from the model"):
        read(Scaled().double().eval(), torch.rand(2, 4))


def test_every_branch_is_tried_on_both_sides():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.sign() * 0.25)
        model[0].bias[:2] = 1200.0  # never off in the box, and hardly by chance outside
        model[0].bias[2:4] = -1200.0
    graph = read(wrap(model), torch.rand(2, 6))
    points, within = trial_points(graph.operations, torch.rand(2, 6).double(), wrap(model).box, torch.float32, 8)
    assert len(points) <= 8 * 7 + 5 + 32
    assert int(within.sum()) == 2 + 8 + 8 + 3 + 8
    assert bool(((points[within] >= 0) & (points[within] <= 1)).all())
    first = next(step for step in graph.operations if isinstance(step, Activation)).sources[0]
    before = values(graph.operations, points)[first]
    assert bool((before.amin(0) < 0).all())
    assert bool((before.amax(0) > 0).all())
    unsearched = before[: 2 + 8 + 8 + 3 + 8 + 8 + 8 + 2]
    assert not bool(((unsearched.amin(0) < 0) & (unsearched.amax(0) > 0)).all())


def test_a_wrong_translation_is_found(monkeypatch):
    """Each of these lists is a little wrong: the trial must say so."""
    from trustbound.certificates.graph import layer_rules, reading

    def steeper(translator, given):
        return translator.add(Activation, given["self"], slope=1e-6)

    model = nn.Sequential(layer(), nn.ReLU(), nn.Linear(4, 2), nn.BatchNorm1d(2, eps=1e-5)).eval()
    read(model, torch.rand(2, 4))
    monkeypatch.setitem(layer_rules.TABLE, "relu", steeper)
    with pytest.raises(UnsupportedError, match="differs from its exported program"):
        read(model, torch.rand(2, 4))
    monkeypatch.undo()

    def careless(operations):
        return tuple(
            Scale(sources=step.sources, shape=step.shape, scale=step.scale, dtype=step.dtype)
            if isinstance(step, Scale)
            else step
            for step in fold(operations)
        )

    monkeypatch.setattr(reading, "fold", careless)
    clamped = Forward(lambda m, x: F.hardtanh(m.body(x)))
    with pytest.raises(UnsupportedError, match="differs from"):
        read(clamped, torch.rand(2, 4))
