"""Public calls leave no trace: the model and the random state of the process are as they were, twice in a row."""

import importlib
import pkgutil
import random

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.model import build

#: Calls, by name; each gets a model, its data, and a folder of its own.
CALLS = {
    "attack pgd": lambda model, data, to: tb.attack("pgd", model, data.inputs, data.labels, "linf:0.1", steps=3),
    "attack smooth": lambda model, data, to: tb.attack(
        "smooth-pgd", model, data.inputs, data.labels, "linf:0.1", steps=2
    ),
    "attack square": lambda model, data, to: tb.attack("square", model, data.inputs, data.labels, "l2:0.5", steps=5),
    "certify interval": lambda model, data, to: tb.certify("interval", model, data.inputs, data.labels, "linf:0.01"),
    "certify crown": lambda model, data, to: tb.certify("crown", model, data.inputs, data.labels, "l2:0.01"),
    "certify lipschitz": lambda model, data, to: tb.certify("lipschitz", model, data.inputs, data.labels, "l2:0.01"),
    "audit": lambda model, data, to: tb.audit(model, data, ["linf:0.05"], budget="quick", curve_examples=3),
    "audit kept": lambda model, data, to: tb.audit(
        model, data, ["l2:0.2"], budget="quick", curve_examples=2, run=to / "run"
    ),
    "wrap": lambda model, data, to: tb.wrap(model.module, box=(0.0, 1.0)),
    "save and load": lambda model, data, to: saved_and_loaded(model, to),
    "load_data": lambda model, data, to: tb.load_data("digits", limit=20, seed=3),
    "labelled": lambda model, data, to: tb.LabelledSet(data.inputs, data.labels).stratified(5, seed=1),
    "threat": lambda model, data, to: tb.Threat.parse("l1:3;goal=target:2"),
    "refused": lambda model, data, to: refused(model, data),
}


def saved_and_loaded(model, to):
    with torch.random.fork_rng():  # a network of one's own starts from torch's numbers, as any module does
        module = build("fc", widths=[4], input_shape=[1, 8, 8], classes=10)
    return tb.load_model(f"fc:{tb.save_model(module, to / 'fc.safetensors')}")


def refused(model, data):
    with pytest.raises(tb.InputError):
        tb.audit(model, data, ["linf:9"], budget="quick")
    with pytest.raises(tb.InputError):
        tb.attack("pgd", model, data.inputs, data.labels + 99, "linf:0.1")


class Handled(nn.Module):
    """A network with all that a careless caller could disturb."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(192, 10),
        )
        self.register_buffer("seen", torch.arange(3.0))

    def forward(self, inputs):
        return self.body(inputs)


@pytest.fixture(scope="module", autouse=True)
def everything_imported():
    for info in pkgutil.walk_packages(tb.__path__, "trustbound."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)


@pytest.fixture
def examined():
    """(model, data, digest function): frozen and trained parts, a gradient, hooks, mixed modes."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Handled().eval()
        calls = []
        module.body[0].weight.requires_grad_(False)
        module.body[5].weight.grad = torch.full_like(module.body[5].weight, 3.0)
        module.body[2].register_forward_hook(lambda *_: calls.append(1))
        module.body[0].register_forward_pre_hook(lambda *_: calls.append(2))
        for part in module.body[1].running_mean, module.body[1].running_var:
            part.uniform_(0.5, 1.5)
    data = tb.load_data("digits", limit=22)

    def state():
        return {
            "weights": {
                name: (one.detach().clone(), one.requires_grad, one.data_ptr())
                for name, one in module.named_parameters()
            },
            "gradients": {
                name: None if one.grad is None else one.grad.clone() for name, one in module.named_parameters()
            },
            "buffers": {name: one.clone() for name, one in module.named_buffers()},
            "modes": [part.training for part in module.modules()],
            "hooks": [
                [
                    list(getattr(part, kind))
                    for kind in (
                        "_forward_hooks",
                        "_forward_pre_hooks",
                        "_backward_hooks",
                        "_backward_pre_hooks",
                    )
                ]
                for part in module.modules()
            ],
            "names": [sorted(vars(part)) for part in module.modules()],
            "forward": module.forward.__func__,
            "grad mode": torch.is_grad_enabled(),
            "dtype": torch.get_default_dtype(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "torch": torch.random.get_rng_state(),
            "numpy": np.random.get_state(legacy=True)[1].copy(),
            "numpy place": np.random.get_state(legacy=True)[2],
            "python": random.getstate(),
            "inputs": data.inputs.clone(),
            "labels": data.labels.clone(),
        }

    return tb.wrap(module), data, state


def equal(one, other):
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return one == other


@pytest.mark.parametrize("name", list(CALLS))
def test_a_call_leaves_no_trace(name, examined, tmp_path):
    model, data, state = examined
    before = state()
    for time in range(2):
        to = tmp_path / str(time)
        to.mkdir()
        CALLS[name](model, data, to)
        after = state()
        changed = [what for what in before if not equal(before[what], after[what])]
        assert changed == [], f"call {time + 1} changed {changed}"


class Gambler(nn.Module):
    """Draws from every global generator each time it is called."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, inputs):
        noise = float(torch.rand(())) + np.random.random() + random.random()
        return self.linear(inputs.flatten(1)) * (1.0 + 1e-3 * noise)


@pytest.mark.parametrize("name", ["attack pgd", "attack square", "audit"])
def test_a_model_that_gambles_costs_the_process_no_random_numbers(name, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tb.wrap(Gambler().eval())
    data = tb.load_data("digits", limit=20)
    before = torch.random.get_rng_state(), np.random.get_state(legacy=True)[1:3], random.getstate()
    CALLS[name](model, data, tmp_path)
    after = torch.random.get_rng_state(), np.random.get_state(legacy=True)[1:3], random.getstate()
    assert [equal(one, other) for one, other in zip(before, after, strict=True)] == [True, True, True]


def test_the_comparison_sees_each_change(examined):
    model, _, state = examined
    module = model.module
    changes = {
        "weights": lambda: module.body[5].bias.data.add_(1),
        "gradients": lambda: setattr(module.body[5].weight, "grad", None),
        "buffers": lambda: module.seen.add_(1),
        "modes": lambda: module.body[4].train(),
        "hooks": lambda: module.register_forward_hook(lambda *_: None),
        "torch": lambda: torch.rand(1),
        "numpy place": lambda: np.random.random(),
        "python": lambda: random.random(),
    }
    for what, change in changes.items():
        before = state()
        change()
        assert not equal(before[what], state()[what]), what


def test_training_leaves_the_random_state_and_its_argument(tmp_path):
    from trustbound.hardening import Recipe

    data = tb.load_data("digits", limit=40, split="train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = build("fc", widths=[4], input_shape=[1, 8, 8], classes=10)
    for _ in range(2):
        before = torch.random.get_rng_state(), np.random.get_state(legacy=True)[1].copy(), random.getstate()
        trained = tb.train(tb.wrap(module), data, Recipe(epochs=1, batch_size=20))
        assert torch.equal(torch.random.get_rng_state(), before[0])
        assert np.array_equal(np.random.get_state(legacy=True)[1], before[1])
        assert random.getstate() == before[2]
        assert trained.model is not None
