"""The probe measures what an independent attack measures, and a planted collapse is rolled back."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from scipy import stats
from torch import nn

from trustbound.data import LabelledSet
from trustbound.errors import InputError
from trustbound.hardening import Probe, Recipe, train
from trustbound.hardening.objectives import PGDTraining
from trustbound.hardening.probe import accuracy
from trustbound.model.wrapping import wrap
from trustbound.threat import Threat


def pictures(count=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    inputs = torch.rand(count, 6, generator=generator) * 0.3
    inputs[torch.arange(count), labels] += 0.6
    return LabelledSet(inputs, labels)


def net():
    torch.manual_seed(3)
    return wrap(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))


@dataclass(frozen=True, kw_only=True)
class Collapsing(PGDTraining):
    """Adversarial training that unlearns between two counts of forward passes: a planted collapse."""

    threat: ClassVar[bool] = True
    first: int
    last: int

    def step(self, context, state, batch):
        if self.first <= context.forwards < self.last:
            batch = dataclasses.replace(batch, labels=1 - batch.labels)
        return super().step(context, state, batch)


def recipe(first=10**9, last=10**9, epochs=6, **changes):
    params = {"batch_size": 10, "learning_rate": 0.05, "schedule": "constant", "probe": Probe(steps=3)}
    objective = Collapsing(steps=1, first=first, last=last)
    return Recipe(objective=objective, threat="linf:0.1", epochs=epochs, **{**params, **changes})


def weights_of(model):
    return torch.cat([value.detach().flatten() for value in model.state_dict().values()])


PER_EPOCH = 180 * 2  # a tenth of 200 is held out; one step of search and the outer pass


def test_the_probe_is_the_share_that_survives():
    """A linear classifier's robust accuracy under l∞ is known: margin > ε‖w‖₁."""
    torch.manual_seed(0)
    model, held = wrap(nn.Linear(6, 2)), pictures(150)
    weight = (model.module.weight[1] - model.module.weight[0]).detach()
    shift = (model.module.bias[1] - model.module.bias[0]).detach()
    with torch.no_grad():
        model.module.bias[1] -= (held.inputs @ weight).median() + shift
    margin = ((held.inputs @ weight) - (held.inputs @ weight).median()) * (2.0 * held.labels - 1.0)
    interior = (0.05 * weight.abs().sum()).item()
    clipped = held.inputs - 0.05 * (2.0 * held.labels[:, None] - 1.0) * weight.sign()
    margin_worst = margin + ((clipped.clamp(0, 1) - held.inputs) @ weight) * (2.0 * held.labels - 1.0)
    assert (margin - margin_worst <= interior + 1e-6).all()
    model.train()
    probed = Probe(steps=20).measure(model, held, Threat.parse("linf:0.05"), seed=1)
    assert probed.clean == pytest.approx(float((margin > 0).double().mean()), abs=1 / 150)
    assert probed.robust == pytest.approx(float((margin_worst > 0).double().mean()), abs=1 / 150)
    assert probed.robust < probed.clean
    assert accuracy(model, held) == pytest.approx(probed.clean)
    assert model.training


def test_a_planted_collapse_is_rolled_back_and_training_goes_on():
    trained = train(net(), pictures(), recipe(3 * PER_EPOCH, 4 * PER_EPOCH))
    kept = [row for row in trained.history if row.kept]
    (thrown,) = [row for row in trained.history if not row.kept]
    assert thrown.number == 4
    assert thrown.probe_robust_accuracy < kept[2].probe_robust_accuracy - 0.3
    assert [row.number for row in kept] == [1, 2, 3, 4, 5, 6]
    assert [row.attempt for row in kept] == [0, 0, 0, 1, 1, 1]
    assert [row.learning_rate for row in kept] == [0.05] * 3 + [0.025] * 3
    assert kept[-1].probe_robust_accuracy > 0.9
    (event,) = trained.events
    assert (event.kind, event.epoch) == ("roll-back", 4)
    assert "epoch 4 is repeated from the weights of epoch 3 at half the learning rate" in event.text
    assert trained.examples == 7 * 180


def test_the_weights_come_back_as_they_were_when_it_keeps_collapsing():
    """Stopped for good, the model is bit for bit the one that was trained for the good epochs alone."""
    trained = train(net(), pictures(), recipe(3 * PER_EPOCH, 10**9))
    assert [row.kept for row in trained.history] == [True, True, True, False, False]
    assert [event.kind for event in trained.events] == ["roll-back", "roll-back"]
    assert "training stops with the weights of epoch 3" in trained.events[-1].text
    alone = train(net(), pictures(), recipe(epochs=3))
    assert torch.equal(weights_of(trained.model), weights_of(alone.model))
    assert not trained.model.training


def test_the_repeated_epoch_sees_other_random_numbers():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(Collapsing):
        def adversarial(self, context, batch):
            seen.append((tuple(batch.random.ids.tolist()), batch.random.key))
            return super().adversarial(context, batch)

    objective = Spy(steps=1, first=PER_EPOCH, last=2 * PER_EPOCH)
    train(net(), pictures(), dataclasses.replace(recipe(epochs=2), objective=objective))
    first, collapsed, repeated = seen[:18], seen[18:36], seen[36:]
    assert len(repeated) == 18
    assert len({key for _, key in first}) == len({key for _, key in collapsed}) == 1
    assert len({first[0][1], collapsed[0][1], repeated[0][1]}) == 3
    assert collapsed[0][0] != repeated[0][0]


def test_without_a_probe_nothing_is_rolled_back():
    trained = train(net(), pictures(), recipe(3 * PER_EPOCH, 10**9, probe=None))
    assert trained.events == ()
    assert len(trained.history) == 6
    assert trained.history[0].probe_robust_accuracy is None


def test_the_rule_is_the_stated_one():
    probe = Probe(drop=0.2)
    assert probe.collapsed(0.59, best=0.80, examples=10_000)
    assert not probe.collapsed(0.61, best=0.80, examples=10_000)
    assert probe.collapsed(0.14, best=0.30, examples=10_000)  # half of a low best is enough
    assert not probe.collapsed(0.16, best=0.30, examples=10_000)
    assert not probe.collapsed(0.0, best=0.19, examples=10_000)  # nothing to lose yet
    assert not probe.collapsed(0.5, best=0.8, examples=10)  # three of ten: noise
    assert not probe.collapsed(0.9, best=0.8, examples=10_000)


def test_noise_alone_does_not_trip_the_rule():
    """Two draws of the same accuracy, exactly summed: at most one pair in 700 looks like a collapse."""
    for rate in (0.1, 0.45, 0.9):
        counts = torch.arange(257)
        chance = torch.from_numpy(stats.binom.pmf(counts.numpy(), 256, rate))
        false_alarm = sum(
            float(chance[best] * chance[now])
            for best in range(257)
            for now in range(best)
            if chance[best] * chance[now] > 1e-12 and Probe().collapsed(now / 256, best=best / 256, examples=256)
        )
        assert false_alarm < 1 / 700


@pytest.mark.parametrize("params", [{"steps": 0}, {"examples": 0}, {"drop": 0.0}, {"retries": -1}])
def test_probes_that_measure_nothing_are_refused(params):
    with pytest.raises(InputError, match="a probe needs steps ≥ 1"):
        Probe(**params)
