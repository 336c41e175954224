"""The check `preprocessing`: trained networks asked in another way than they learnt, and honest ones."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.preprocessing import Preprocessing, other_ways
from trustbound.model.wrapping import wrap
from trustbound.threat import Threat

WAYS = {
    "as stored": lambda inputs: inputs,
    "mean 0.5 and std 0.5": lambda inputs: (inputs - 0.5) / 0.5,
    "values from 0 to 255": lambda inputs: 255 * inputs,
    "light and dark exchanged": lambda inputs: 1 - inputs,
    "channels in the order BGR": lambda inputs: inputs.flip(1),
    "ImageNet's mean and std": lambda inputs: (
        (inputs - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    ),
    "columns of mean 0 and deviation 1": lambda inputs: (inputs - inputs.mean(0)) / inputs.std(0, correction=0),
}


def trained(inputs, labels, steps=60):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classes = int(labels.max()) + 1
        module = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 32), nn.ReLU(), nn.Linear(32, classes))
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(inputs), labels).backward()
            optimizer.step()
    return module.eval()


def digits(split):
    data = tb.load_data("digits", split=split)
    return data.inputs, data.labels


def tinted(split):
    """Digits of two colours, and the colour is half of the class: with red and blue exchanged each is another."""
    inputs, labels = digits(split)
    red = torch.rand(len(inputs), generator=torch.Generator().manual_seed(len(inputs))) > 0.5
    tint = torch.where(red[:, None], torch.tensor([1.0, 0.6, 0.1]), torch.tensor([0.1, 0.6, 1.0]))
    return inputs * tint[:, :, None, None], labels % 5 + 5 * red.long()


def wine(split):
    from sklearn.datasets import load_wine

    inputs, labels = load_wine(return_X_y=True)
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)


def look(module, inputs, labels, **wrapped):
    box = wrapped.pop("box", (0.0, max(1.0, float(inputs.max()))))
    model = wrap(module, box=box, **wrapped)
    return Preprocessing().look(Before(model=model, inputs=inputs, labels=labels, threat=Threat.parse("linf:0.1")))


@pytest.mark.parametrize(
    ("data", "way", "verdicts"),
    [
        (digits, "values from 0 to 255", {"FAIL"}),
        (digits, "light and dark exchanged", {"FAIL"}),
        (digits, "mean 0.5 and std 0.5", {"WARN", "FAIL"}),
        (tinted, "channels in the order BGR", {"FAIL"}),
        (tinted, "ImageNet's mean and std", {"FAIL"}),
        (wine, "columns of mean 0 and deviation 1", {"FAIL"}),
    ],
)
def test_a_network_that_learnt_otherwise_is_told_by_name_and_passes_as_it_learnt(data, way, verdicts):
    inputs, labels = data("train")
    module = trained(WAYS[way](inputs), labels, 100)
    test, told = data("test")
    check, finding = look(module, test, told)
    assert check.verdict in verdicts
    assert f"with {way} (" in check.finding
    right = module(WAYS[way](test)).argmax(1) == told
    given = module(test).argmax(1) == told
    assert check.value > 0.1
    assert float((right.double() - given.double()).mean()) > 0.1
    asked = len(finding.evidence["tried"]) + 1
    assert asked <= 7
    assert finding.cost.forwards == 64 * asked
    assert finding.cost.backwards == 0

    class Prepared(nn.Module):
        def forward(self, inputs):
            return module(WAYS[way](inputs) if data is not wine else (inputs - mean) / deviation)

    mean, deviation = test.mean(0), test.std(0, correction=0)
    assert look(Prepared(), test, told)[0].verdict == "PASS"


def test_a_mean_and_std_given_beside_a_module_that_wants_none_are_told():
    module = trained(*digits("train"))
    check, _ = look(module, *digits("test"), mean=[0.9], std=[0.05])
    assert check.verdict == "FAIL"
    assert "with inputs as they are stored, without mean and std (" in check.finding
    assert "leave out mean and std" in check.advice
    rows, labels = wine("test")
    given = look(trained(WAYS["columns of mean 0 and deviation 1"](rows), labels, 100), rows, labels)[0]
    assert "with columns of mean 0 and deviation 1 (" in given.finding
    standard = {"mean": rows.mean(0).tolist(), "std": rows.std(0, correction=0).tolist()}
    twice = look(trained(rows, labels, 400), rows, labels, **standard)[0]
    assert "with inputs as they are stored, without mean and std (" in twice.finding
    normalised = trained((digits("train")[0] - 0.3) / 0.35, digits("train")[1])
    assert look(normalised, *digits("test"), mean=[0.3], std=[0.35])[0].verdict == "PASS"


def test_what_goes_through_a_declared_normalisation_reaches_the_module_as_said():
    inputs = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    seen = []

    class Watched(nn.Module):
        def forward(self, inputs):
            seen.append(inputs)
            return inputs.mean((2, 3))

    model = wrap(Watched(), mean=[0.1, 0.2, 0.3], std=[2.0, 3.0, 4.0])
    ways = other_ways(model, inputs, inputs)
    assert len(ways) <= 6
    for name, prepared in ways.items():
        if name in WAYS and "BGR" not in name:
            model(prepared)
            torch.testing.assert_close(seen[-1], WAYS[name](inputs), rtol=1e-5, atol=1e-5)
    model(ways["inputs as they are stored, without mean and std"])
    torch.testing.assert_close(seen[-1], inputs, rtol=1e-5, atol=1e-6)
    assert torch.equal(ways["channels in the order BGR"], inputs[:, [2, 1, 0]])


def test_a_model_that_refuses_other_ranges_is_asked_what_it_takes():
    module = trained(*digits("train"))

    class Strict(nn.Module):
        def forward(self, inputs):
            if float(inputs.min()) < 0 or float(inputs.max()) > 1:
                raise ValueError("pixels lie in [0, 1]")
            return module(inputs)

    check, finding = look(Strict(), *digits("test"))
    assert check.verdict == "PASS"
    assert finding.evidence["tried"] == ["light and dark exchanged"]


@pytest.mark.parametrize("seed", range(4))
def test_untrained_networks_and_unknown_shapes_are_no_alarm(seed):
    inputs, labels = digits("test")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert look(module, inputs, labels)[0].verdict == "PASS"
    assert look(module, inputs.flatten(1), labels)[0].verdict == "PASS"
    assert look(module, inputs.reshape(-1, 4, 16), labels)[0].verdict == "SKIP"
    assert look(module, inputs.reshape(-1, 4, 4, 4), labels)[0].verdict == "SKIP"
