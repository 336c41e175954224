"""What stands between a caller and the module under test."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.errors import InputError
from trustbound.model.wrapping import wrap


class Shifts(nn.Module):
    """Writes into its input, always or from a certain call on."""

    def __init__(self, after=0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 3)
        self.after = after
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        if self.calls > self.after:
            inputs -= 0.5
            return self.layer(inputs)
        return self.layer(inputs - 0.5)


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_a_module_that_writes_into_its_inputs_is_asked_about_copies(name):
    module = Shifts()
    plain = nn.Sequential(nn.Identity(), module.layer)
    with torch.no_grad():
        clean = nn.Linear(6, 3)
        clean.weight.copy_(module.layer.weight)
        clean.bias.copy_(module.layer.bias - 0.5 * module.layer.weight.sum(dim=1))
        inputs = torch.rand(20, 6)
        labels = clean(inputs).argmax(dim=1)
    before = inputs.clone()
    found = tb.attack(name, module, inputs, labels, "linf:0.2")
    wanted = tb.attack(name, clean, inputs, labels, "linf:0.2")
    assert torch.equal(inputs, before)
    assert torch.equal(found.success, wanted.success)
    assert bool((found.size <= 0.2 + 1e-6).all())
    assert torch.equal(wrap(nn.Sequential(nn.ReLU(inplace=True), plain))(before - 0.5), plain((before - 0.5).relu()))


def test_a_module_that_starts_to_write_later_is_refused():
    model = wrap(Shifts(after=2))
    with torch.no_grad():
        model(torch.rand(2, 6))
        model(torch.rand(2, 6))
        with pytest.raises(InputError, match="wrote into its inputs"):
            model(torch.rand(2, 6))


BEHIND = {
    "numpy": lambda inputs: inputs.detach().numpy().__imul__(0.5),
    "data": lambda inputs: inputs.data.mul_(0.5),
    "data, from the second call on": lambda inputs: inputs.data.clamp_(max=0.5),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", list(BEHIND))
def test_what_writes_behind_torchs_back_is_asked_about_copies(name, inference):
    class Behind(nn.Linear):
        def forward(self, inputs):
            BEHIND[name](inputs)
            return super().forward(inputs)

    model = wrap(Behind(6, 3))
    with torch.inference_mode(inference), torch.no_grad():
        for high in (0.5, 1.0, 1.0, 1.0):
            inputs = torch.rand(4, 6) * high
            before = inputs.clone()
            model(inputs)
            assert torch.equal(inputs, before)


def test_weights_that_no_gradient_can_pass_are_refused():
    with torch.inference_mode():
        module = nn.Linear(4, 3)
    with pytest.raises(InputError, match="inference_mode"):
        tb.attack("pgd", module, torch.rand(2, 4), torch.tensor([0, 1]), "linf:0.1")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"box": (-1.0, 1.0)}, r"`box`.*Box\(low=0.0, high=1.0\); got Box\(low=-1.0|`box`.*got \(-1.0, 1.0\)"),
        ({"mean": [0.5]}, r"`mean`.*\[0.25\]; got \[0.5\]"),
        ({"std": [0.5]}, r"`std`.*None; got \[0.5\]"),
        ({"output": 0}, "`output`"),
        ({"adaptation": tb.model.wrapping.Adaptation(draws=3)}, "`adaptation`"),
        ({"name": "other"}, "`name`"),
        ({"classes": 7}, "`classes`"),
        ({"input_shape": (6,)}, "`input_shape`"),
        ({"sha256": "00"}, "`sha256`"),
    ],
)
def test_what_is_said_of_a_wrapped_model_is_never_ignored(said, shown):
    model = wrap(nn.Linear(6, 3), mean=[0.25], name="mine", classes=3)
    with pytest.raises(InputError, match=shown):
        wrap(model, **said)
    assert wrap(model) is model
    assert wrap(model, box=(0, 1), mean=[0.25], name="mine", classes=3) is model


def test_a_function_that_returns_a_wrapped_model_keeps_its_box_and_refuses_another(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\nimport trustbound as tb\n"
        "def net():\n    return tb.wrap(nn.Linear(6, 3), box=(-1, 1), mean=[0.5], name='mine')\n"
    )
    spec = f"{tmp_path / 'net.py'}:net"
    model = tb.load_model(spec)
    assert model.box == tb.load_model(spec, box=(-1, 1), mean=[0.5]).box
    assert (model.box.low, model.box.high, model.mean.tolist()) == (-1.0, 1.0, [0.5])
    for said in ({"box": (0, 1)}, {"mean": [0.4]}, {"std": [2.0]}, {"output": "logits"}):
        with pytest.raises(InputError, match="wrapped already"):
            tb.load_model(spec, **said)
    # Weights that were noted with another box are another model, too.
    other = tb.save_model(wrap(nn.Linear(6, 3), box=(0, 1)), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="wrapped already"):
        tb.load_model(spec, weights=other)
    linear = nn.Linear(6, 3)
    same = tb.save_model(wrap(linear, box=(-1, 1), mean=[0.5]), tmp_path / "same.safetensors")
    loaded = tb.load_model(spec, weights=same)
    inputs = torch.rand(4, 6)
    assert torch.equal(loaded(inputs), linear(inputs - 0.5))
    assert loaded.sha256 == loaded.origin.sha256


def test_a_colour_normalisation_does_not_colour_grey_pictures():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(3))
    network(torch.rand(1, 3, 8, 8))
    model = wrap(network, mean=[0.4, 0.5, 0.6], std=[0.2, 0.2, 0.2])
    grey, labels = torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(InputError, match=r"`mean` must have one number per channel.*has 3.*have 1"):
        model(grey)
    with pytest.raises(InputError, match="one number per channel"):
        tb.attack("pgd", model, grey, labels, "linf:0.1", steps=2)
    with pytest.raises(tb.UnsupportedError, match="one number per channel"):
        tb.certify("interval", model, grey, labels, "linf:0.1")
    assert model(grey.expand(-1, 3, -1, -1)).shape == (5, 3)
    with pytest.raises(InputError, match="one number per channel"):  # (B, 1) broadcasts as well
        wrap(nn.Linear(3, 2), std=[1.0, 1.0, 1.0])(torch.rand(4, 1))
    # One number serves any number of channels.
    assert wrap(network, mean=[0.5], std=[0.2])(grey.expand(-1, 3, -1, -1)).shape == (5, 3)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ({"std": [0.2, 0.0, 0.2]}, "positive"),
        ({"std": [0.2, -0.1, 0.2]}, "positive"),
        ({"std": [1e-60]}, "positive"),  # 0 in the model's own precision
        ({"std": [float("nan")]}, "finite"),
        ({"mean": [0.5, float("nan"), 0.5]}, "finite"),
        ({"mean": float("inf")}, "finite"),
        ({"mean": []}, "finite numbers, one per channel"),
        ({"mean": "0.5"}, "must be numbers"),
        ({"mean": [[0.5], [0.5, 0.1]]}, "must be numbers"),
        ({"mean": [0.5, 0.5], "std": [0.2, 0.2, 0.2]}, "got 2 and 3"),
        ({"box": (1.0, 0.0)}, "low < high"),
        ({"box": (0.5, 0.5)}, "low < high"),
        ({"box": (0.0, float("nan"))}, "finite limits"),
        ({"box": (0.0, float("inf"))}, "finite limits"),
        ({"box": 1.0}, "pair of limits"),
    ],
)
def test_a_normalisation_or_box_that_cannot_be_is_refused(said, shown):
    with pytest.raises(InputError, match=shown):
        wrap(nn.Linear(3, 2), **said)


def test_a_normalisation_keeps_its_decimals_before_a_layer_of_whole_numbers():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs):
            return self.layer(inputs[:, self.places])

    assert wrap(Table(), mean=[0.25]).mean.tolist() == [0.25]
