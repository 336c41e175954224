"""Killed anywhere, given again: the same bits. A crash in the middle of a write spoils nothing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import trustbound.hardening.training.loop as loop_module
from trustbound.data import LabelledSet
from trustbound.errors import RecordError
from trustbound.hardening import Probe, Recipe, train
from trustbound.hardening.objectives import PGDTraining
from trustbound.hardening.training import checkpoint
from trustbound.model.wrapping import wrap
from trustbound.record.codec import to_document

SETUP = textwrap.dedent(
    """
    import torch
    from torch import nn
    from trustbound.data import LabelledSet
    from trustbound.hardening import Augmentation, Probe, Recipe
    from trustbound.model.wrapping import wrap

    def data():
        generator = torch.Generator().manual_seed(0)
        pictures = torch.randint(0, 256, (64, 1, 6, 6), generator=generator, dtype=torch.uint8)
        return LabelledSet(pictures, (pictures.double().mean((1, 2, 3)) > 127.5).long())

    def model():
        torch.manual_seed(0)
        return wrap(nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)
        ))

    RECIPE = Recipe(
        objective="fgsm-rs", threat="linf:0.1", epochs=3, batch_size=16, learning_rate=0.01, weight_decay=0.01,
        augmentation=Augmentation(shift=1, flip=True), probe=Probe(steps=2), seed=5,
    )
    """
)
exec(SETUP, globals_of_setup := {})
make_data, make_model, RECIPE = (globals_of_setup[name] for name in ("data", "model", "RECIPE"))
STEPS = 4  # of each epoch: 58 examples, 6 are held out


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def rows_of(trained):
    plain = to_document(trained.history)
    return [{key: value for key, value in row.items() if key != "seconds"} for row in plain]


@pytest.fixture(scope="module")
def reference():
    return train(make_model(), make_data(), RECIPE)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("steps", range(1, 3 * STEPS + 1))
def test_interrupted_after_any_step_and_resumed_is_the_same_run(steps, tmp_path, reference, monkeypatch):
    monkeypatch.setattr(loop_module, "_QUIET", 0.0)
    calls = []

    def stop(progress):
        calls.append(progress)
        if len(calls) == steps:
            raise Interrupted

    # Saved after each step and then stopped in the next one, so that no step ends where a save does.
    with pytest.raises(Interrupted):
        train(make_model(), make_data(), RECIPE, run=tmp_path, progress=stop, save_seconds=0.0)
    again = train(make_model(), make_data(), RECIPE, run=tmp_path, progress=calls.append)
    assert same(state_of(again.model), state_of(reference.model))
    assert rows_of(again) == rows_of(reference)
    assert (again.examples, again.cost.forwards) == (reference.examples, reference.cost.forwards)
    assert again.probe_cost.forwards == reference.probe_cost.forwards
    # The step in flight is taken again, no other.
    assert len(calls) - steps == 3 * STEPS - (steps - 1)
    resumed = [event.kind for event in again.events]
    assert resumed == (["resumption"] if steps > 1 else [])


@pytest.mark.parametrize("objective", ["fgsm-rs", "free"])
@pytest.mark.parametrize("syncs", [5, 10])
def test_killed_for_good_and_resumed_is_the_same_run(syncs, objective, tmp_path):
    """SIGKILL inside fsync: the 5th finds a checkpoint half written, the 10th one just renamed."""
    recipe = dataclasses.replace(RECIPE, objective=objective)
    reference = train(make_model(), make_data(), recipe)
    script = SETUP.replace("fgsm-rs", objective) + textwrap.dedent(
        f"""
        import os, signal
        from trustbound.hardening import train
        real, count = os.fsync, 0

        def fsync(handle):
            global count
            count += 1
            if count == {syncs}:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        os.fsync = fsync
        train(model(), data(), RECIPE, run={str(tmp_path)!r}, save_seconds=0.0)
        """
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    drafts = list(tmp_path.glob("*.tmp"))
    assert len(drafts) == syncs % 2
    stand = json.loads(checkpoint.load(tmp_path)["stand"])
    assert (stand["epoch"], stand["step"]) == {5: (0, 2), 10: (1, 1)}[syncs]
    again = train(make_model(), make_data(), recipe, run=tmp_path)
    assert not list(tmp_path.glob("*.tmp"))
    assert same(state_of(again.model), state_of(reference.model))
    assert rows_of(again) == rows_of(reference)


def test_a_finished_run_is_returned_without_training(tmp_path, reference):
    train(make_model(), make_data(), RECIPE, run=tmp_path)
    told = []
    again = train(make_model(), make_data(), RECIPE, run=tmp_path, progress=told.append)
    assert told == []
    assert same(state_of(again.model), state_of(reference.model))
    assert rows_of(again) == rows_of(reference)
    assert again.events == ()
    train(make_model(), make_data(), RECIPE, run=tmp_path, progress=told.append, resume=False)
    assert told != []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: (make_model(), make_data(), Recipe(epochs=2)), "epochs 3 → 2"),
        (lambda: (make_model(), make_data().take(range(63)), RECIPE), "other training examples"),
        (
            lambda: (wrap(nn.Sequential(nn.Flatten(), nn.Linear(36, 2))), make_data(), RECIPE),
            "a model with other weights",
        ),
    ],
)
def test_another_training_is_not_continued(change, message, tmp_path):
    train(make_model(), make_data(), RECIPE, run=tmp_path)
    before = (tmp_path / checkpoint.NAME).read_bytes()
    with pytest.raises(RecordError, match=message):
        train(*change(), run=tmp_path)
    assert (tmp_path / checkpoint.NAME).read_bytes() == before


def test_a_roll_back_survives_an_interruption(tmp_path, monkeypatch):
    """Interrupted in the repeated epoch, the run still knows the weights that it may have to go back to."""
    monkeypatch.setattr(loop_module, "_QUIET", 0.0)
    data = LabelledSet(make_data().inputs, make_data().labels)
    # Every probe after the first is a collapse: the rule is planted, not the network.
    monkeypatch.setattr(Probe, "collapsed", lambda self, robust, best, examples: True)
    recipe = Recipe(objective=PGDTraining(steps=1), threat="linf:0.1", epochs=4, batch_size=16, probe=Probe(steps=1))
    whole = train(make_model(), data, recipe)
    calls = []

    def stop(progress):
        calls.append(progress)
        if len(calls) == 2 * STEPS + 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(make_model(), data, recipe, run=tmp_path, progress=stop, save_seconds=0.0)
    again = train(make_model(), data, recipe, run=tmp_path)
    assert [row.kept for row in whole.history] == [True, False, False]
    assert rows_of(again) == rows_of(whole)
    assert same(state_of(again.model), state_of(whole.model))
    assert [event.kind for event in again.events] == ["roll-back", "resumption", "roll-back"]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"stand": "first"})

    def full(content, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RecordError, match=r"could not be written: .*No space left.*is intact"):
        checkpoint.save(tmp_path, {"stand": "second"})
    assert checkpoint.load(tmp_path)["stand"] == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.NAME]


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_damaged_checkpoint_is_refused(kept, tmp_path):
    checkpoint.save(tmp_path, {"stand": "x", "weights": torch.arange(100)})
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RecordError, match="must be a whole checkpoint"):
        checkpoint.load(tmp_path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"format": checkpoint.FORMAT, "stand": Payload()}, tmp_path / checkpoint.NAME)
    with pytest.raises(RecordError, match="must be a whole checkpoint"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "executed").exists()
    torch.save({"format": 99}, tmp_path / checkpoint.NAME)
    with pytest.raises(RecordError, match="of format 2; got 99"):
        checkpoint.load(tmp_path)


def test_one_training_at_a_time(tmp_path):
    with checkpoint.opened(tmp_path), pytest.raises(RecordError, match="another process trains in"):
        train(make_model(), make_data(), RECIPE, run=tmp_path)
    train(make_model(), make_data(), Recipe(epochs=1), run=tmp_path)


def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecordError, match="the run directory must be writable"):
        train(make_model(), make_data(), RECIPE, run=tmp_path / "file")
