"""Views, in-place operations and state: a list holds what the module does to its memory, or the module is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.errors import UnsupportedError
from trustbound.threat import Threat


class Module(nn.Module):
    """A function of a hidden layer's values and the inputs, with a linear head."""

    def __init__(self, function, hidden=4, outputs=4, seed=0):
        super().__init__()
        self.function = function
        self.body, self.head = nn.Linear(4, hidden), nn.Linear(outputs, 3)
        self.register_buffer("state", torch.zeros(4))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.requires_grad_(False)

    def forward(self, inputs):
        return self.head(self.function(self, inputs, self.body(inputs)))


def after(change, result=lambda h: h):
    """Return a function that changes the hidden values and gives them back."""

    def function(module, inputs, hidden):
        change(module, hidden)
        return result(hidden)

    return function


def fill(module, hidden):
    hidden[:, 0] = 0.0
    hidden[:, 1:3].mul_(2)


def shift(module, hidden):
    hidden[:, :2] = hidden[:, 2:]


def swap(module, hidden):
    hidden[:, [0, 3]] = hidden[:, [3, 0]] * 2


def chain(module, hidden):
    hidden.view(-1, 2, 2).transpose(1, 2)[:, 0].clamp_(min=-0.2).add_(1)


def masked(module, hidden):
    hidden.masked_fill_(torch.tensor([True, False, False, True]), 0.5)


def buffered(module, inputs, hidden):
    blank = torch.empty(len(inputs), 4)
    blank[:, :2] = hidden[:, 2:]
    blank[:, 2:] = inputs[:, :2]
    return blank


READ = {
    "a view": after(lambda m, h: h.view(-1, 2, 2).clamp_(max=0.3)),
    "a view of the other kind": after(lambda m, h: h.reshape(-1, 4, 1)[..., 0].relu_()),
    "a slice and a column": after(fill),
    "a slice from a slice": after(shift),
    "an index from an index": after(swap),
    "views of views": after(chain),
    "a mask that is constant": after(masked),
    "a detached value": after(lambda m, h: h.detach().clamp_(max=0.3)),
    "parts of a chunk": after(lambda m, h: h.chunk(2, 1)[1].zero_()),
    "a copy": after(lambda m, h: h[:, :2].copy_(h[:, 2:].relu())),
    "an alias": after(lambda m, h: h.add_(1).relu_().mul_(2).sub_(h)),
    "the input": lambda m, x, h: F.relu(x.mul_(2).sub_(1), inplace=True) + h,
    "a view of the input": lambda m, x, h: (x.view(-1, 2, 2).clamp_(max=0.4), x + h)[1],
    "given memory": lambda m, x, h: torch.mul(h, 2, out=torch.empty_like(h)) + h,
    "given memory of a view": lambda m, x, h: (torch.add(h[:, :2], x[:, 2:], out=h[:, :2]), torch.add(h, x, out=h))[1],
    "blank memory filled in parts": buffered,
    "a counter that nothing reads": lambda m, x, h: (m.state.add_(1), h)[1],
    "a value used before and after": lambda m, x, h: h * 2 + h.relu_(),
}


@pytest.mark.parametrize("name", list(READ))
def test_what_is_done_in_place_is_in_the_list(name):
    model = Module(READ[name]).eval()
    inputs = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))
    graph = read(model, inputs)
    far = torch.randn(200, 4, generator=torch.Generator().manual_seed(2)) * 5
    double = Module(READ[name]).double()
    if name != "blank memory filled in parts":
        torch.testing.assert_close(graph(far.double()), double(far.double().clone()), atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(graph(far.double()).float(), model(far.clone()), atol=1e-4, rtol=1e-4)


def remember(module, inputs, hidden):
    module.state.add_(1)
    return hidden + module.state


def last_row(module, hidden):
    hidden[-1] = 0.0


REFUSED = {
    "a buffer that the result reads": (remember, "the forward changes 'state' and computes with it"),
    "a row": (after(last_row), "batch axis"),
    "a row by its index": (
        lambda m, x, h: h.index_put((torch.tensor([0]),), torch.zeros(4)),
        "between the examples|batch",
    ),
    "values added where they are put": (
        lambda m, x, h: h.index_put((torch.arange(len(h))[:, None], torch.tensor([[0, 1]])), x[:, :2], accumulate=True),
        "added where|size of the batch|batch",
    ),
    "a mask that the input makes": (after(lambda m, h: h.masked_fill_(h > 0.5, 0.0)), r"\(gt\)"),
    "memory behind torch's back": (after(lambda m, h: h.data.clamp_(max=0.3)), "no proof"),
    "blank memory": (lambda m, x, h: torch.empty_like(h).copy_(torch.empty_like(h)) + h, "NaN"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_rewritten_is_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=message):
        read(Module(function).eval(), torch.rand(2, 4))


def test_a_limit_behind_a_view_is_not_certified_away():
    """The limit acts on no example shown: lost, the example was certified and broken."""

    class Capped(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 1), nn.Linear(4, 1)
            with torch.no_grad():
                self.a.weight.copy_(torch.eye(4) * 100)
                self.b.weight.fill_(1.0)
                self.c.weight.fill_(70.0)
                for layer in (self.a, self.b, self.c):
                    layer.bias.zero_()

        def forward(self, inputs):
            hidden = self.a(inputs)
            hidden.view(-1, 2, 2).clamp_(max=50.0)
            return torch.cat([self.b(hidden), self.c(inputs)], 1)

    model = Capped()
    inputs = torch.full((1, 4), 0.45)
    labels = model(inputs).argmax(1)
    broken = model(torch.full((1, 4), 0.75)).argmax(1) != labels
    assert bool(broken)
    proof = certify("crown", model, inputs, labels, Threat.parse("linf:0.3"), box=(0.0, 1.0))
    assert not bool(proof.certified)
    assert bool(certify("crown", model, inputs, labels, Threat.parse("linf:0.04"), box=(0.0, 1.0)).certified)


# Little random programs: each line changes the hidden values in place or makes new ones of them.
LINES = {
    "clamp a view": lambda m, x, h: (h.view(-1, 2, 2)[:, 1].clamp_(max=0.3), h)[1],
    "scale a transposed view": lambda m, x, h: (h.view(-1, 2, 2).transpose(1, 2)[:, 0].mul_(-1.5), h)[1],
    "write a slice": lambda m, x, h: (h[:, 1:3].copy_(x[:, :2]), h)[1],
    "write a column": lambda m, x, h: (h[:, 2].fill_(0.25), h)[1],
    "rectify a chunk": lambda m, x, h: (h.chunk(2, 1)[0].relu_(), h)[1],
    "add the input": lambda m, x, h: h.add_(x, alpha=-0.5),
    "change the input": lambda m, x, h: (x[:, :1].sub_(1), h)[1],
    "a layer again": lambda m, x, h: m.body(h),
    "permute": lambda m, x, h: h[:, [3, 1, 0, 2]],
    "leak": lambda m, x, h: F.leaky_relu(h, 0.2) + h.detach().clamp_(min=-1),
    "concatenate": lambda m, x, h: torch.cat([h[:, :1], x[:, 1:]], 1).relu_(),
    "bfloat16 and back": lambda m, x, h: h.bfloat16().add_(1).float(),
    "half and back": lambda m, x, h: (lambda low: (low[:, 1:].clamp_(min=0), low.float())[1])(h.half()),
    "flip": lambda m, x, h: h.flip(1).roll(1, 1),
}


def program(lines):
    def function(module, inputs, hidden):
        for line in lines:
            hidden = LINES[line](module, inputs, hidden)
        return hidden

    return function


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_are_read_right_or_refused(seed):
    generator = torch.Generator().manual_seed(seed)
    names = list(LINES)
    lines = [names[int(torch.randint(len(names), (1,), generator=generator))] for _ in range(5)]
    model = Module(program(lines), seed=seed).eval()
    try:
        graph = read(model, torch.rand(2, 4, generator=generator))
    except UnsupportedError:
        pytest.fail(f"none of these lines is beyond the table: {lines}")
    points = (torch.rand(200, 4, generator=generator) - 0.5) * 20
    wanted, found = model(points.clone()).double(), graph(points.double())
    coarse = any("bfloat16" in line for line in lines)
    tolerance = 0.1 if coarse else 0.02 if any("half" in line for line in lines) else 1e-4
    assert float(((wanted - found).abs() / (1 + found.abs().amax(1, keepdim=True))).max()) < tolerance, lines


def test_every_line_of_the_random_programs_does_something():
    points = (torch.rand(50, 4, generator=torch.Generator().manual_seed(0)) - 0.5) * 20
    plain = Module(program([]))(points)
    without = Module(program(["add the input"]))(points.clone())
    for name in LINES:
        changed = Module(program([name, "add the input"]))(points.clone())
        assert not torch.equal(changed, without), name
    assert plain.shape == (50, 3)
