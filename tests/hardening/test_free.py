"""Free adversarial training is the algorithm of its paper, written here by hand."""

import pytest
import torch
from torch import nn

from trustbound.data import LabelledSet, load_data
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening import Recipe, train
from trustbound.hardening.objectives import FreeTraining, Standard
from trustbound.hardening.training.batches import epoch_batches, key_of
from trustbound.model.wrapping import wrap

EPSILON = 0.125  # and inputs on the lattice of 1/64: sums with δ are exact


def pictures(count=50):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 65, (count, 6), generator=generator) / 64
    return LabelledSet(inputs, (inputs[:, 0] + inputs[:, 1] > 1.0).long())


def net():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 2))


def weights_of(module):
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def recipe(objective, **changes):
    params = {"epochs": 3, "batch_size": 16, "optimizer": "sgd", "learning_rate": 0.2, "schedule": "constant"}
    threat = f"linf:{EPSILON}" if objective.threat else None
    return Recipe(objective=objective, threat=threat, probe=None, seed=2, **{**params, **changes})


def by_hand(data, replays, step_size, epochs=3):
    """Algorithm 1 with the authors' clip to the box: weights, and δ at the end."""
    module, noise = net(), torch.zeros(16, 6)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    for epoch in range(epochs):
        for rows in epoch_batches(torch.arange(len(data)), 16, key_of(2, 0, epoch, "order")):
            inputs, labels = data.inputs[rows], data.labels[rows]
            for _ in range(replays):
                change = noise[: len(rows)].clone().requires_grad_(True)
                loss = nn.functional.cross_entropy(module((inputs + change).clamp(0.0, 1.0)), labels)
                optimizer.zero_grad()
                loss.backward()
                noise[: len(rows)] = (change.detach() + step_size * change.grad.sign()).clamp(-EPSILON, EPSILON)
                optimizer.step()
    return module, noise


@pytest.mark.parametrize(("replays", "step_size"), [(1, None), (3, None), (4, 0.03125)])
def test_it_is_the_algorithm_of_the_paper_bit_for_bit(replays, step_size):
    data = pictures()
    trained = train(wrap(net()), data, recipe(FreeTraining(replays=replays, step_size=step_size)))
    module, noise = by_hand(data, replays, step_size or EPSILON)
    assert torch.equal(weights_of(trained.model), weights_of(module))
    assert (noise.abs() == EPSILON).float().mean() > 0.3
    assert trained.evaluations_per_image == replays
    assert trained.cost.backwards == trained.cost.forwards == replays * 150


def test_one_replay_learns_the_first_minibatch_clean_and_each_next_one_at_what_the_last_left():
    """With m = 1 no minibatch sees a perturbation of its own: the first step is plain training."""
    data, one = pictures(16), {"epochs": 1, "batch_size": 16}
    plain = train(wrap(net()), data, recipe(Standard(), **one))
    free = train(wrap(net()), data, recipe(FreeTraining(replays=1), **one))
    assert torch.equal(weights_of(free.model), weights_of(plain.model))
    two = {"epochs": 2, "batch_size": 16}
    plain, free = (train(wrap(net()), data, recipe(one, **two)) for one in (Standard(), FreeTraining(replays=1)))
    assert not torch.equal(weights_of(free.model), weights_of(plain.model))


def test_the_perturbation_is_in_the_checkpoint_and_nowhere_else(tmp_path):
    from trustbound.hardening.training import checkpoint

    data = pictures()
    train(wrap(net()), data, recipe(FreeTraining(replays=3)), run=tmp_path)
    (state,) = checkpoint.load(tmp_path)["now"]["state"]
    assert torch.equal(state["perturbation"], by_hand(data, 3, EPSILON)[1])
    assert not state["perturbation"].requires_grad


@pytest.mark.parametrize("norm", ["linf:0.1", "l2:0.3", "l1:0.8", "l0:2"])
def test_every_set_is_kept(norm, tmp_path):
    from trustbound.hardening.training import checkpoint
    from trustbound.threat import Threat

    objective = FreeTraining(replays=2)
    train(wrap(net()), pictures(), Recipe(objective=objective, threat=norm, epochs=2, batch_size=16), run=tmp_path)
    (state,) = checkpoint.load(tmp_path)["now"]["state"]
    kept, middle = state["perturbation"], torch.full((16, 6), 0.5)
    assert Threat.parse(norm).perturbations.around(middle, (-9.0, 9.0)).contains(middle + kept).all()
    assert kept.abs().max() > 0.05


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"replays": 0}, "`replays` must be a whole number, at least 1; got 0"),
        ({"replays": 1.5}, "`replays` must be a whole number"),
        ({"step_size": 0.0}, "`step_size` must be above 0, or None for epsilon"),
    ],
)
def test_params_that_never_learn_are_refused(params, message):
    with pytest.raises(InputError, match=message):
        FreeTraining(**params)


def test_a_set_without_a_change_of_the_inputs_is_refused_in_a_sentence():
    data = load_data("digits", split="train", limit=40)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(UnsupportedError, match=r"free hands on a change of the inputs, which brightness:0.2 has not"):
        train(wrap(module), data, Recipe(objective="free", threat="brightness:0.2", epochs=1))


def test_pgd_trains_against_turns_and_shifts():
    data = load_data("digits", split="train", limit=60)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    trained = train(
        wrap(module), data, Recipe(objective="pgd", threat="rotation:20,translation:1", epochs=1, batch_size=20)
    )
    assert trained.history[-1].loss > 0
