"""What an objective is given: the inner maximisation by a library attack, how far training is, a state that is kept."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import trustbound.attacks.registry as attacks
from trustbound.attacks import attack, build
from trustbound.attacks.gradient.margin_pgd import MarginPGD, Run
from trustbound.attacks.gradient.pgd import BIM, PGD
from trustbound.data import LabelledSet
from trustbound.errors import InputError, ModelError, UnsupportedError
from trustbound.hardening import Probe, Recipe, train
from trustbound.hardening.objectives import Batch, Context, PGDTraining, Standard
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Random, Threat


def net(*extra):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), *extra, nn.ReLU(), nn.Linear(16, 3))


def batch_of(count=12):
    inputs = torch.rand(count, 6, generator=torch.Generator().manual_seed(1))
    return Batch(inputs=inputs, labels=torch.arange(count) % 3, random=Random(0, torch.arange(count)))


def toy(count=40):
    batch = batch_of(count)
    return LabelledSet(batch.inputs, batch.labels)


def context_of(module, threat="linf:0.1", **more):
    return Context(wrap(module, **more), Threat.parse(threat), shape=(6,))


@pytest.mark.parametrize("norm", ["linf:0.1", "l2:0.3"])
def test_an_inner_maximisation_takes_the_steps_of_the_attack(norm):
    """With nothing to drop and nothing found, the last point of a search is the last point of the inner one."""
    module, batch = net(), batch_of()
    with torch.no_grad():
        correct = wrap(module)(batch.inputs).argmax(1)
        module[-1].bias += 100.0 * nn.functional.one_hot(correct[0], 3)  # one class for all: no attack succeeds
    batch = Batch(inputs=batch.inputs, labels=correct[:1].repeat(12), random=batch.random)
    found = attack("pgd", wrap(module), batch.inputs, batch.labels, norm, steps=5)
    assert not found.success.any()
    inner = context_of(module, norm).inner(PGD(steps=5), batch)
    assert torch.equal(inner, found.adversarial)


@pytest.mark.parametrize("row", attacks.ATTACKS, ids=lambda row: row.name)
def test_every_attack_of_the_library_runs_or_is_refused(row):
    method, context, batch = build(row.name), context_of(net()), batch_of()
    if "linf" in row.norms and method.seeks == "any" and method.restarts == 1 and not row.shared:
        found = context.inner(method, batch)
        assert context.threat.perturbations.around(batch.inputs, (0.0, 1.0)).contains(found).all()
        before = nn.functional.cross_entropy(context.model(batch.inputs), batch.labels)
        assert nn.functional.cross_entropy(context.model(found), batch.labels) > before
        assert context.forwards >= context.backwards
        assert context.forwards >= 12 * method.steps
    else:
        with pytest.raises(UnsupportedError):
            context.inner(method, batch)
        assert context.forwards == 0


def test_an_attack_that_goes_on_from_its_closest_point_finds_it_kept():
    context, batch = context_of(net()), batch_of()
    found = context.inner(MarginPGD(steps=6, runs=(Run(),)), batch)
    before = nn.functional.cross_entropy(context.model(batch.inputs), batch.labels)
    assert nn.functional.cross_entropy(context.model(found), batch.labels) > before


def test_what_has_no_use_in_an_inner_maximisation_is_refused_before_the_first_call():
    context, batch = context_of(net()), batch_of()
    with pytest.raises(UnsupportedError, match=r"one run of an attack that climbs a loss .* got PGD, .* in 3 restarts"):
        context.inner(PGD(restarts=3), batch)
    with pytest.raises(InputError, match="BIM does not start at random and has no use for `start`"):
        context.inner(BIM(), batch, start=batch.inputs.clone())
    with pytest.raises(InputError, match="`step_size` must be a positive number"):
        context.inner(PGD(step_size=-1.0), batch)
    with pytest.raises(UnsupportedError, match="bim serves linf, l2"):
        context_of(net(), "l1:1").inner(BIM(), batch)
    assert context.forwards == 0
    with pytest.raises(InputError, match="must declare `threat = True`"):
        Context(wrap(net())).inner(PGD(), batch)


def test_a_start_and_a_loss_of_ones_own_are_what_is_climbed():
    context, batch = context_of(net()), batch_of()
    batch = Batch(inputs=batch.inputs * 0.8 + 0.1, labels=batch.labels, random=batch.random)
    start = batch.inputs + 0.05
    seen = []

    def loss(logits, owner):
        seen.append((logits, owner))
        return -logits[:, 0]

    found = context.inner(PGD(steps=1, step_size=0.01), batch, start=start.clone(), loss=loss)
    ((logits, owner),) = seen
    torch.testing.assert_close(logits, context.model(start))
    assert torch.equal(owner, torch.arange(12))
    assert (context.model(found)[:, 0] < logits[:, 0]).all()


def test_a_run_leaves_the_global_generator_the_buffers_and_the_modes():
    context, batch = context_of(net(nn.BatchNorm1d(16), nn.Dropout(0.5))), batch_of()
    context.model.train()
    before = {name: buffer.clone() for name, buffer in context.model.named_buffers()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [context.inner(PGD(steps=2), batch), context.inner(PGD(steps=2), batch), context.outputs(batch.inputs)]
        torch.manual_seed(0)
        again = [context.inner(PGD(steps=2), batch), context.inner(PGD(steps=2), batch), context.outputs(batch.inputs)]
    assert all(torch.equal(left, right) for left, right in zip(drawn, again, strict=True))
    assert not torch.equal(drawn[0], drawn[1]), "each run sees a dropout of its own"
    quiet = [context.outputs(batch.inputs, mode="eval") for _ in range(2)]
    assert torch.equal(*quiet)
    assert all(torch.equal(before[name], buffer) for name, buffer in context.model.named_buffers())
    assert all(part.training for part in context.model.modules())


def test_stand_ins_carry_the_inner_gradient_and_a_random_model_is_asked_once_a_look():
    class Rounded(nn.Module):
        def forward(self, inputs):
            return (inputs * 8).round() / 8

    module = nn.Sequential(Rounded(), net())
    adaptation = Adaptation(stand_ins={"0": lambda inputs: inputs}, draws=5)
    context, batch = context_of(module, adaptation=adaptation), batch_of()
    moved = context.inner(PGD(steps=3, random_start=False), batch)
    assert not torch.equal(moved, batch.inputs)
    assert context.forwards == 3 * 12


def test_a_batch_that_does_not_fit_is_refused_not_cut():
    class Full(nn.Module):
        def forward(self, inputs):
            if len(inputs) > 6:
                raise torch.OutOfMemoryError
            return inputs[:, :3]

    with pytest.raises(
        InputError, match=r"12 examples did not in the inner maximisation\. Choose a smaller batch_size"
    ):
        context_of(Full()).inner(PGD(steps=2), batch_of())


def test_an_exception_of_the_model_says_who_asked():
    class Broken(nn.Module):
        def forward(self, inputs):
            raise ZeroDivisionError

    with pytest.raises(ModelError, match="asked by the inner maximisation about 12 examples"):
        context_of(Broken()).inner(PGD(steps=2), batch_of())


def test_half_precision_reaches_the_inner_pass_and_losses_are_computed_in_full():
    seen, losses = [], []

    class Watched(nn.Module):
        def forward(self, inputs):
            seen.append(inputs.dtype)
            return inputs

    @dataclass(frozen=True, kw_only=True)
    class Spy(PGDTraining):
        def adversarial(self, context, batch):
            return context.inner(PGD(steps=1), batch, loss=lambda logits, owner: losses.append(logits) or logits[:, 0])

    recipe = Recipe(objective=Spy(), threat="linf:0.1", epochs=1, batch_size=40, probe=None, precision="bf16-mixed")
    train(wrap(net(Watched())), toy(), recipe)
    assert seen[-2:] == [torch.bfloat16] * 2  # the inner and the outer pass
    assert [one.dtype for one in losses] == [torch.float32]


def test_progress_counts_steps_and_its_share_runs_from_zero_to_one():
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Spy(Standard):
        def step(self, context, state, batch):
            seen.append(context.progress)
            return super().step(context, state, batch)

    train(wrap(net()), toy(), Recipe(objective=Spy(), epochs=3, batch_size=10))
    assert [(one.epoch, one.step) for one in seen] == [(epoch, step) for epoch in (1, 2, 3) for step in range(4)]
    assert [one.share for one in seen] == [place / 12 for place in range(12)]
    assert {(one.epochs, one.steps) for one in seen} == {(3, 4)}


@dataclass(frozen=True, kw_only=True)
class Counting(PGDTraining):
    """Learns at a rate of its state, and tells it."""

    threat: ClassVar[bool] = True

    def init(self, context):
        return {"seen": 0, "sum": torch.zeros(2)}

    def step(self, context, state, batch):
        loss, _, metrics = super().step(context, {}, batch)
        state = {"seen": state["seen"] + 1, "sum": state["sum"] + float(loss.detach())}
        return loss, state, {**metrics, "seen": torch.tensor(float(state["seen"]))}


def test_a_roll_back_goes_back_to_the_state_of_the_kept_epoch(monkeypatch):
    told = iter([True, False, False])  # nothing is judged in the first epoch
    monkeypatch.setattr(Probe, "collapsed", lambda self, robust, best, examples: next(told))
    recipe = Recipe(objective=Counting(steps=1), threat="linf:0.1", epochs=3, batch_size=9, probe=Probe(steps=1))
    trained = train(wrap(net()), toy(), recipe)
    assert [row.kept for row in trained.history] == [True, False, True, True]
    # Four steps an epoch: means of 1..4, 5..8 thrown away, 5..8 again.
    assert [row.facts["seen"] for row in trained.history] == [2.5, 6.5, 6.5, 10.5]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([], "must map names to tensors, numbers or texts; .*Odd starts with list"),
        ({"net": nn.Linear(1, 1)}, "starts with net: Linear. Write what it holds as such"),
    ],
)
def test_a_state_that_no_checkpoint_holds_is_refused_before_the_first_step(state, message):
    class Odd(Standard):
        def init(self, context):
            return state

    with pytest.raises(InputError, match=message):
        train(wrap(net()), toy(), Recipe(objective=Odd()))


def test_a_step_that_moves_nothing_is_refused():
    class Idle(Standard):
        def step(self, context, state, batch):
            loss, state, metrics = super().step(context, state, batch)
            return loss.detach(), state, metrics

    with pytest.raises(InputError, match=r"a loss that depends on the weights, or call `context\.update`"):
        train(wrap(net()), toy(), Recipe(objective=Idle()))


def test_what_has_no_step_is_no_objective():
    class Old:
        threat = False

        def loss(self):
            """What objectives used to have."""

    with pytest.raises(InputError, match="an object with `threat`, `init` and `step`; got Old"):
        Recipe(objective=Old())
