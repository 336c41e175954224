"""The loop: equal to a loop written by hand, counted by someone else, and without a trace in the caller."""

import random as python_random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import trustbound.hardening.training.loop as loop_module
from trustbound.data import LabelledSet
from trustbound.errors import InputError, MissingDependencyError, UnsupportedError
from trustbound.hardening import Augmentation, Probe, Recipe, named_recipe, train
from trustbound.hardening.objectives import PGDTraining, Standard
from trustbound.hardening.training.batches import epoch_batches, key_of
from trustbound.model.wrapping import wrap
from trustbound.threat import Threat


def toy(count=60, features=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, features, generator=generator)
    labels = (inputs[:, 0] > 0.5).long()
    if dtype == torch.uint8:
        inputs = (inputs * 255).round().to(torch.uint8)
    return LabelledSet(inputs, labels)


def net(seed=0, features=4, extra=None):
    torch.manual_seed(seed)
    layers = [nn.Linear(features, 16), nn.ReLU(), *([] if extra is None else [extra]), nn.Linear(16, 2)]
    return wrap(nn.Sequential(*layers))


def weights_of(model):
    return torch.cat([value.detach().flatten().double() for value in model.state_dict().values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_standard_training_equals_a_hand_written_loop_bit_for_bit(dtype):
    data = toy(dtype=dtype)
    recipe = Recipe(
        epochs=3,
        batch_size=16,
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.8,
        weight_decay=0.01,
        schedule="cosine",
        seed=4,
    )
    trained = train(net(), data, recipe)
    by_hand, losses = net().module, []
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.8, weight_decay=0.01)
    done = 0
    for epoch in range(3):
        parts = epoch_batches(torch.arange(60), 16, key_of(4, 0, epoch, "order"))
        assert sorted(torch.cat(parts).tolist()) == list(range(60))
        total = 0.0
        for rows in parts:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * 0.5 * (1 + np.cos(np.pi * (done + 0.5) / 12))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(by_hand(data.inputs[rows]), data.labels[rows])
            loss.backward()
            optimizer.step()
            total, done = total + float(loss.detach()) * len(rows), done + 1
        losses.append(total / 60)
    assert torch.equal(weights_of(trained.model), weights_of(wrap(by_hand)))
    assert [row.loss for row in trained.history] == pytest.approx(losses, rel=1e-12)


def test_it_learns_and_says_so():
    validation = toy(200, seed=1)
    trained = train(net(), toy(400), Recipe(epochs=15, batch_size=20, learning_rate=0.02), validation=validation)
    correct = trained.model(validation.inputs).argmax(1) == validation.labels
    assert trained.history[-1].validation_accuracy == float(correct.double().mean()) > 0.95
    assert trained.history[-1].facts["accuracy"] > 0.95
    assert trained.history[-1].loss < trained.history[0].loss
    assert [row.number for row in trained.history] == list(range(1, 16))


@pytest.mark.parametrize(
    ("objective", "threat", "per_image"), [("standard", None, 1), ("fgsm-rs", "linf:0.1", 2), ("pgd", "linf:0.1", 8)]
)
def test_cost_equals_an_independent_count(objective, threat, per_image):
    """Rows that pass the first layer forwards, and rows whose gradient passes the last one backwards."""
    model, counts = net(), {"forwards": 0, "backwards": 0}
    model.module[0].register_forward_hook(
        lambda module, inputs, output: counts.update(forwards=counts["forwards"] + len(output) * module.training)
    )
    model.module[-1].register_full_backward_hook(
        lambda module, into, out: counts.update(backwards=counts["backwards"] + len(out[0]) * module.training)
    )
    trained = train(model, toy(), Recipe(objective=objective, threat=threat, epochs=2, batch_size=16, probe=None))
    assert (trained.cost.forwards, trained.cost.backwards) == (counts["forwards"], counts["backwards"])
    assert trained.examples == 120
    assert trained.evaluations_per_image == per_image
    assert trained.cost.seconds > 0


def test_probe_cost_is_counted_apart():
    trained = train(net(), toy(), Recipe(objective="fgsm-rs", threat="linf:0.1", epochs=2, probe=Probe(steps=3)))
    assert trained.examples == 2 * 54  # a tenth is held out
    assert trained.cost.forwards == 2 * trained.examples
    assert 0 < trained.probe_cost.forwards <= 2 * 6 * (1 + 3 + 1)


def test_held_out_examples_are_never_trained_on():
    seen = []

    class Spy(Standard):
        threat = True

        def step(self, context, state, batch):
            seen.append(batch.random.ids)
            return super().step(context, state, batch)

    train(net(), toy(100), Recipe(objective=Spy(), threat="linf:0.1", epochs=3, batch_size=30))
    rows = torch.cat(seen).tolist()
    assert len(set(rows)) == 90
    assert len(rows) == 270


def test_same_seed_same_bits_other_seed_other_bits_and_no_trace_outside():
    data = toy()

    def once(seed, disturb):
        model = net(extra=nn.Dropout(0.5))
        torch.manual_seed(disturb)
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), python_random.getstate()
        with torch.no_grad():  # a caller's mode must not matter
            train(model, data, Recipe(objective="fgsm-rs", threat="linf:0.1", epochs=2, batch_size=16, seed=seed))
        assert torch.equal(states[0], torch.get_rng_state())
        assert np.array_equal(states[1], np.random.get_state()[1])
        assert states[2] == python_random.getstate()
        assert not any(module.training for module in model.modules())
        assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
        assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
        return weights_of(model)

    first = once(7, 1)
    assert torch.equal(first, once(7, 2))
    assert not torch.equal(first, once(8, 1))


def test_frozen_weights_stay_and_a_loaded_digest_does_not():
    model = wrap(net().module, sha256="digest of the file")
    model.module[0].requires_grad_(False)
    before, last = model.module[0].weight.clone(), model.module[2].weight.clone()
    train(model, toy(), Recipe(objective="pgd", threat="l2:0.1", epochs=1))
    assert torch.equal(before, model.module[0].weight)
    assert not model.module[0].weight.requires_grad
    assert not torch.equal(last, model.module[2].weight)
    assert model.sha256 != "digest of the file"


def test_mixed_precision_trains():
    trained = train(net(), toy(), Recipe(objective="pgd", threat="linf:0.1", epochs=2, precision="bf16-mixed"))
    assert trained.model.dtype == torch.float32
    exact = train(net(), toy(), Recipe(objective="pgd", threat="linf:0.1", epochs=2))
    assert abs(trained.history[-1].loss - exact.history[-1].loss) < 0.05
    assert not torch.equal(weights_of(trained.model), weights_of(exact.model))


def test_progress_reports_every_epoch_and_counts_down(monkeypatch):
    monkeypatch.setattr(loop_module, "_QUIET", 0.0)
    told = []
    train(net(), toy(), Recipe(epochs=2, batch_size=20), progress=told.append)
    assert [(one.epoch, one.step, one.steps) for one in told] == [(e, s, 3) for e in (1, 2) for s in (1, 2, 3)]
    assert told[-1].eta == 0.0
    assert told[0].eta > 0.0
    assert told[-1].epochs == 2


def test_divergence_is_refused_with_the_modes_as_they_came():
    model = net().eval()
    with pytest.raises(InputError, match=r"in epoch 1 the loss became .*Lower the learning rate"):
        train(model, toy(), Recipe(epochs=3, optimizer="sgd", learning_rate=1e30, batch_size=10))
    assert not model.training


@pytest.mark.parametrize("name", ["digits", "digits-hardened", "mnist", "mnist-hardened"])
def test_named_recipes_survive_a_round_trip(name):
    recipe = named_recipe(name, seed=9)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.seed == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "pgd"}, "pgd trains against a threat; got none"),
        ({"threat": "linf:0.1"}, "standard does not use a threat; got linf:0.1"),
        ({"objective": "pgd", "threat": 0.1}, "`threat` must be a Threat or its text form"),
        ({"objective": 3}, "`objective` must be a registry name or an object"),
        ({"epochs": 0}, "`epochs` must be a whole number, at least 1; got 0"),
        ({"batch_size": 2.5}, "`batch_size` must be a whole number, at least 1; got 2.5"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a finite number above 0; got nan"),
        ({"weight_decay": -1}, "`weight_decay` must be a finite number at least 0; got -1"),
        ({"momentum": 1.0}, r"`momentum` must lie in \[0, 1\); got 1.0"),
        ({"optimizer": "lion"}, "`optimizer` must be one of sgd, adam; got 'lion'"),
        ({"schedule": "step"}, "`schedule` must be one of constant, cosine, one-cycle, cyclic; got 'step'"),
        ({"precision": "8"}, "`precision` must be one of 32-true, bf16-mixed; got '8'"),
    ],
)
def test_recipes_that_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**changes)


def test_momentum_without_sgd_is_refused():
    assert Recipe(optimizer="sgd", momentum=0.5).momentum == 0.5
    with pytest.raises(InputError, match="belongs to sgd"):
        Recipe(optimizer="adam", momentum=0.5)


def test_goals_that_training_does_not_defend_are_refused():
    with pytest.raises(UnsupportedError, match="the threat's goal is target:1"):
        Recipe(objective="pgd", threat=Threat.parse("linf:0.1;goal=target:1"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train(net(), toy().inputs, Recipe()), "`data` must be a LabelledSet; got Tensor"),
        (lambda: train(net(), toy(features=5), Recipe()), r"must accept examples of shape \(5,\); Sequential"),
        (lambda: train(wrap(net().module, box=(0, 2)), toy(), Recipe()), "must have one box"),
        (lambda: train(net(), LabelledSet(torch.rand(3, 4), [0, 1, 2]), Recipe()), "labels must lie in 0..1"),
        (lambda: train(net(), toy(), Recipe(), validation=toy(features=5)), r"shape \(4,\); got \(5,\)"),
        (lambda: train(net(), toy(), Recipe(), device="tpu"), "`device` must be cpu, cuda or cuda:N"),
        (lambda: train(net(), toy(), {"epochs": 3}), "`recipe` must be a Recipe; got dict"),
        (
            lambda: train(net(), toy(), Recipe(objective="pgd", threat="linf:8")),
            "epsilon must be at most the box's diameter in linf",
        ),
        (
            lambda: train(net(), toy(), Recipe(augmentation=Augmentation(shift=1))),
            r"augmentation needs pictures \(C, H, W\)",
        ),
        (lambda: train(net(), toy(), Recipe(devices=2)), "devices=2 needs as many processes; 1 run"),
        (
            lambda: train(wrap(nn.Linear(4, 2).requires_grad_(False)), toy(), Recipe()),
            "must have a weight to train",
        ),
    ],
)
def test_calls_that_are_refused_before_the_first_step(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_model_that_starts_from_nan_is_refused():
    model = net()
    with torch.no_grad():
        model.module[0].weight[0, 0] = torch.nan
        model.module[0].bias.fill_(1.0)
    with pytest.raises(InputError, match="must start from finite weights"):
        train(model, toy(), Recipe())


def test_without_lightning_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'trustbound\[train\]'"):
        train(net(), toy(), Recipe())


def test_registry_and_package_import_no_torch():
    code = (
        "import sys, trustbound.hardening, trustbound.hardening.registry, trustbound.hardening.history;"
        "assert 'torch' not in sys.modules; import trustbound.hardening.fit; assert 'torch' in sys.modules;"
        "assert 'lightning_fabric' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pgd_numbers_reach_the_search():
    deep = train(net(), toy(), Recipe(objective=PGDTraining(steps=3), threat="linf:0.1", epochs=1, probe=None))
    assert deep.evaluations_per_image == 4
