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
    model = wrap(Shifts(after=1))
    with torch.no_grad():
        model(torch.rand(2, 6))
        with pytest.raises(InputError, match="wrote into its inputs"):
            model(torch.rand(2, 6))
