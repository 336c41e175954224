"""What is frozen stays frozen while the rest learns: weights, statistics, dropout and modes."""

import copy

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.data import LabelledSet
from trustbound.errors import InputError
from trustbound.hardening import Probe, Recipe, train
from trustbound.hardening.objectives import PGDTraining
from trustbound.hardening.training.modes import Modes
from trustbound.model.wrapping import wrap


def toy(count=60):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(count, 4, generator=generator)
    return LabelledSet(inputs, (inputs[:, 0] > 0.5).long())


class Watched(nn.Module):
    """Passes its input on and notes the modes of the parts at each call that learns or searches."""

    def __init__(self, parts):
        super().__init__()
        self.parts, self.seen = [parts], set()

    def forward(self, inputs):
        self.seen.add(tuple(part.training for part in self.parts[0]))
        return inputs


def net():
    torch.manual_seed(3)
    backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
    head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    return nn.Sequential(backbone, head)


def freeze_mode(module):
    module.train()
    module[0][1].eval()


def freeze_weights(module):
    module.train()
    module[0][1].requires_grad_(False)


def freeze_weights_of_a_loaded_model(module):
    module.eval()
    module[0][1].requires_grad_(False)


RECIPES = {
    "standard": Recipe(epochs=2, batch_size=20),
    "pgd": Recipe(objective=PGDTraining(steps=2), threat="linf:0.1", epochs=2, batch_size=20, probe=Probe(steps=2)),
    "pgd eval": Recipe(objective=PGDTraining(steps=2, mode="eval"), threat="linf:0.1", epochs=2, batch_size=20),
    "fgsm-rs": Recipe(objective="fgsm-rs", threat="linf:0.1", epochs=2, batch_size=20, probe=Probe(steps=2)),
}


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("freeze", [freeze_mode, freeze_weights, freeze_weights_of_a_loaded_model])
def test_a_frozen_batch_norm_keeps_its_statistics_and_the_others_learn(freeze, recipe):
    module = net()
    with torch.no_grad():
        module[0][1].running_mean.uniform_()
        module[0][1].running_var.uniform_(0.5, 2.0)
    freeze(module)
    before = copy.deepcopy(module.state_dict())
    model = wrap(module)
    calls = []
    module[0][1].register_forward_hook(lambda part, *_: calls.append(part.training))
    train(model, toy(), RECIPES[recipe], validation=toy(20))
    after = module.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(before[f"0.1.{name}"], after[f"0.1.{name}"]), name
        assert not torch.equal(before[f"1.1.{name}"], after[f"1.1.{name}"]), name
    assert calls
    assert not any(calls), "the frozen statistics are what the others learn on"
    assert not torch.equal(before["0.0.weight"], after["0.0.weight"])


def test_dropout_of_a_frozen_part_drops_nothing_and_that_of_a_learning_part_does():
    module = net().train()
    module[0].requires_grad_(False)
    watched = Watched([module[0], module[0][3], module[1], module[1][2]])
    module.append(watched)
    before = copy.deepcopy(module[0].state_dict())
    train(wrap(module), toy(), Recipe(epochs=1, batch_size=20))
    assert (False, False, True, True) in watched.seen
    assert watched.seen <= {(False, False, True, True), (False,) * 4}  # learning, and the trial before it
    for name, value in module[0].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_part_that_comes_in_eval_mode_stays_there_and_an_eval_model_is_switched_on():
    for came, learned in [
        ([True, False, True, False], [True, False, True, False]),
        ([True] * 4, [True] * 4),
        ([False] * 4, [True] * 4),
    ]:
        parts = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Dropout())
        for part, training in zip(parts, came, strict=True):
            part.train(training)
        parts.training = any(came)
        modes = Modes(wrap(parts))
        modes.learn()
        assert [part.training for part in parts] == learned
        modes.restore()
        assert [part.training for part in parts] == came


def test_a_train_method_of_its_own_is_asked():
    class Kept(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    module = Kept(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    before = module[1].running_mean.clone()
    train(wrap(module), toy(), RECIPES["pgd"])
    assert torch.equal(before, module[1].running_mean)


def test_modes_come_back_exactly_when_training_fails():
    module = net()
    freeze_mode(module)
    module[1][2].eval()
    before = [part.training for part in module.modules()]
    data = toy()
    model = wrap(module)
    with pytest.raises(InputError, match="stay finite"):
        train(model, data, Recipe(epochs=2, batch_size=20, optimizer="sgd", learning_rate=1e30))
    assert [part.training for part in module.modules()] == before


def test_a_frozen_batch_norm_survives_an_interruption(tmp_path):
    def fresh():
        module = net()
        freeze_mode(module)
        return wrap(module)

    recipe = RECIPES["pgd"]
    whole = train(fresh(), toy(), recipe)

    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(fresh(), toy(), recipe, run=tmp_path / "run", progress=stop)
    again = train(fresh(), toy(), recipe, run=tmp_path / "run")
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_loaded_model_learns(tmp_path):
    torch.manual_seed(0)
    path = tb.save_model(wrap(tb.model.build("fc", widths=[8], input_shape=[4], classes=2)), tmp_path / "a.safetensors")
    model = tb.load_model(path)
    assert not model.training
    model.module.register_forward_hook(lambda part, *_: seen.append(part.training))
    seen = []
    train(model, toy(), Recipe(epochs=1, batch_size=20))
    assert True in seen
