"""Forwards that can tell a trace from a run, or one batch size from another: the list is the run's, or refused."""

import pytest
import torch
from torch import nn

from trustbound.certificates.graph import read
from trustbound.errors import UnsupportedError


class Module(nn.Module):
    """A function of a module with two layers and its inputs."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("factor", torch.tensor(2.0))

    def forward(self, inputs):
        return self.function(self, inputs)


def plain(module, inputs):
    return module.b(module.a(inputs).relu())


def narrow(module, inputs):
    """Another answer in a region that no trial point meets."""
    hidden = module.a(inputs).relu()
    near = ((inputs - 0.4321).abs().amax(1, keepdim=True) < 1e-4).any()
    return module.b(hidden.flip(1) if bool(near) else hidden)


def asking(question):
    return lambda module, inputs: plain(module, inputs) if question(inputs) else narrow(module, inputs)


TOLD = {
    "is_compiling": lambda inputs: torch.compiler.is_compiling(),
    "is_exporting": lambda inputs: torch.compiler.is_exporting(),
    "dynamo": lambda inputs: torch._dynamo.is_compiling(),
    "is_tracing": lambda inputs: torch.jit.is_tracing() or torch.jit.is_scripting(),
    "onnx": lambda inputs: torch.onnx.is_in_onnx_export(),
    "the kind of the tensor": lambda inputs: type(inputs) is not torch.Tensor,
    "the kind of a size": lambda inputs: not isinstance(inputs.shape[0], int),
}


@pytest.mark.parametrize("question", list(TOLD))
def test_a_forward_that_asks_whether_it_is_traced_is_refused_where_its_run_has_no_proof(question):
    with pytest.raises(UnsupportedError, match="no proof"):
        read(Module(asking(TOLD[question])).eval(), torch.rand(3, 4))


@pytest.mark.parametrize("question", ["is_compiling", "is_exporting", "dynamo", "is_tracing", "onnx"])
def test_a_question_whether_it_is_traced_is_answered_as_in_the_run(question):
    def function(module, inputs):
        hidden = module.a(inputs)
        return module.b(hidden) if TOLD[question](inputs) else module.b(hidden.relu())

    inputs = torch.rand(3, 4)
    model = Module(function).eval()
    torch.testing.assert_close(read(model, inputs)(inputs.double()).float(), model(inputs))


def swallowed(read_out):
    def function(module, inputs):
        try:
            doubled = read_out(inputs)
        except Exception:
            return plain(module, inputs)
        hidden = module.a(inputs).relu()
        return module.b(hidden.flip(1) if doubled else hidden)

    return function


SWALLOWED = {
    "numpy": lambda z: abs(z.detach().numpy() - 0.4321).max() < 1e-4,
    "an array": lambda z: abs(memoryview(z.__array__()).tolist()[0][0] - 0.4321) < 1e-6,
    "a number": lambda z: abs(z.sum().item() - 0.4321) < 1e-6,
    "numbers": lambda z: abs(z.flatten().tolist()[0] - 0.4321) < 1e-6,
    "a bool": lambda z: bool((z - 0.4321).abs().max() < 1e-4),
    "an address": lambda z: z.data_ptr() == 1,
    "equal": lambda z: torch.equal(z, torch.full_like(z, 0.4321)),
}


@pytest.mark.parametrize("name", list(SWALLOWED))
def test_an_error_of_the_trace_that_the_forward_catches_is_seen(name):
    model = Module(swallowed(SWALLOWED[name])).eval()
    model(torch.rand(3, 4))
    with pytest.raises(UnsupportedError, match="no proof"):
        read(model, torch.rand(3, 4))


def test_a_number_read_out_of_the_inputs_that_only_python_sees_is_refused():
    def function(module, inputs):
        total = inputs.sum().item()
        return (
            narrow(module, inputs) if isinstance(total, float) and abs(total - 0.4321) < 1e-6 else plain(module, inputs)
        )

    with pytest.raises(UnsupportedError, match="reads numbers out of tensors"):
        read(Module(function).eval(), torch.rand(3, 4))


def at(condition):
    def function(module, inputs):
        hidden = module.a(inputs)
        return module.b((hidden.flip(1) if condition(inputs) else hidden).relu())

    return function


SIZES = {
    "ten": lambda z: z.shape[0] == 10,
    "777": lambda z: z.shape[0] == 777,
    "many": lambda z: z.shape[0] > 5000,
    "a range": lambda z: 300 < z.size(0) < 310,
    "twice": lambda z: 2 * z.shape[0] == 1554,
    "numbers": lambda z: z.numel() == 40,
    "ten, as a number": lambda z: len(z) == 10,
    "a hundred, as a number": lambda z: int(z.shape[0]) == 100,
    "odd": lambda z: z.shape[0] % 7 == 6,
    "one": lambda z: z.shape[0] == 1,
}


@pytest.mark.parametrize("name", list(SIZES))
def test_another_way_at_any_batch_size_is_refused(name):
    with pytest.raises(UnsupportedError, match=r"another way|differs from"):
        read(Module(at(SIZES[name])).eval(), torch.rand(3, 4))


def test_a_limit_that_single_inputs_alone_meet_is_refused():
    """The clamp changes no point that is shown, and is met by a batch of one only."""

    def function(module, inputs):
        if inputs.shape[0] == 1:
            inputs = inputs.clamp(max=1e6)
        return plain(module, inputs)

    with pytest.raises(UnsupportedError, match="another way"):
        read(Module(function).eval(), torch.rand(3, 4))


HONEST = {
    "a layer of numbers": lambda m, z: m.b((m.a(z) * m.factor.item()).relu()),
    "its own size": lambda m, z: m.b(m.a(z.reshape(z.shape[0], 2, 2).reshape(len(z), -1)).relu()),
    "an error in both": lambda m, z: caught(m, z),
    "a check of its size": lambda m, z: plain(m, z) if z.shape[0] >= 1 and z.ndim == 2 else z[:, :3],
    "a check of its kind": lambda m, z: plain(m, z) if torch.is_tensor(z) and z.is_floating_point() else z[:, :3],
}


def caught(module, inputs):
    """An error that the run and the trace both meet."""
    try:
        return inputs.relu7()
    except AttributeError:
        return plain(module, inputs)


@pytest.mark.parametrize("name", list(HONEST))
def test_what_is_the_same_traced_and_run_is_read(name):
    inputs = torch.rand(3, 4)
    model = Module(HONEST[name]).eval()
    torch.testing.assert_close(read(model, inputs)(inputs.double()).float(), model(inputs))


def test_an_error_on_constants_that_the_forward_catches_is_refused_in_a_sentence():
    def function(module, inputs):
        try:
            return torch.ones(inputs.dim(), 3).reshape(5)
        except RuntimeError:
            return plain(module, inputs)

    with pytest.raises(UnsupportedError, match="no proof"):
        read(Module(function).eval(), torch.rand(3, 4))
