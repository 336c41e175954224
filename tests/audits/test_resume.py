"""Killed or starved of disk, an audit goes on where it stopped: the same bracket, the same rows, nothing twice."""

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import trustbound as tb

MOMENTS = 10


class Machine:
    """The process of `killable.py`."""

    def __init__(self, folder, weights):
        self.folder, self.weights = folder, weights
        script = Path(__file__).with_name("killable.py")
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout.readline() == "ready\n"

    def command(self, run):
        return (
            f"audit fc:{self.weights} --data digits --limit 24 --threat linf:0.05 --budget quick "
            f"--curve 4 --json --run {run}"
        ).split()

    def audit(self, name, **options):
        run, log = self.folder / name, self.folder / f"{name}.log"
        task = {"arguments": self.command(run), "log": str(log), **options}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def noted(self, name):
        text = (self.folder / f"{name}.log").read_text()
        return [tuple(json.loads(line)) for line in text.splitlines()]


@pytest.fixture(scope="module")
def machine(digits_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tb.save_model(digits_network(), folder / "fc.safetensors")
    machine = Machine(folder, folder / "fc.safetensors")
    yield machine
    machine.process.stdin.close()
    machine.process.wait(timeout=30)


@pytest.fixture(scope="module")
def whole(machine):
    """The same audit without interruption: what its run holds, and what it did."""
    told = machine.audit("whole")
    assert told["code"] == 0, told["err"]
    found = evidence(machine.folder / "whole")
    assert found["brackets"] == json.loads(told["out"])["brackets"]
    return found, machine.noted("whole")


def evidence(run):
    """All that a run holds but measured seconds."""
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base:
        rows = base.execute("SELECT * FROM evidence ORDER BY step, position").fetchall()
        units = base.execute(
            "SELECT step, shard, count, forwards, backwards, queries, events FROM unit ORDER BY step, shard"
        ).fetchall()
        asked = base.execute("SELECT * FROM asked ORDER BY key").fetchall()
    record = json.loads((run / "record.json").read_text())
    timeless(record)
    pictures = {path.name: path.read_bytes() for path in sorted((run / "adversarials").iterdir())}
    return {"rows": rows, "units": units, "asked": asked, **record, "pictures": pictures}


def timeless(document):
    """Leave out what a clock says, in place."""
    document.pop("created", None)
    document.pop("command", None)
    document.pop("backward_cost", None)
    if "events" in document:
        document["events"] = [event for event in document["events"] if not event.startswith("wall clock")]
    for value in document.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                part.pop("seconds", None)
                timeless(part)


def same(run, whole):
    found, expected = evidence(run), whole[0]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name
    assert not list(run.glob("**/.*"))


def nothing_twice(notes):
    """What was kept is never begun again; what is begun again was in flight when its process died."""
    kept = set()
    in_flight = None
    for what, step, shard in notes:
        if what == "process":
            in_flight = None
        elif what == "begin":
            assert (step, shard) not in kept, f"{step} {shard} was done twice"
            assert in_flight is None, "one unit at a time"
            in_flight = (step, shard)
        elif what == "kept" and in_flight == (step, shard):
            kept.add(in_flight)
            in_flight = None
    begun = [note[1:] for note in notes if note[0] == "begin"]
    blocked_gradients = sum(note[0] == "process" for note in notes) - 1
    assert len(begun) - len(set(begun)) <= blocked_gradients


def test_ten_kills_change_nothing(machine, whole):
    chance = random.Random(20)
    total = len(whole[1])
    killed = 0
    for moment in range(MOMENTS):
        name = f"killed-{moment}"
        kill_at = 1 + int((moment + chance.random()) / MOMENTS * (total - 1))
        first = machine.audit(name, kill_at=kill_at, delay=chance.random() * 0.04)
        killed += first["code"] == -signal.SIGKILL
        again = machine.audit(name)
        assert again["code"] == 0, again["err"]
        same(machine.folder / name, whole)
        nothing_twice(machine.noted(name))
        shutil.rmtree(machine.folder / name)
    assert killed >= MOMENTS - 1  # the last moment may come after the end


def test_one_run_may_die_again_and_again(machine, whole):
    chance = random.Random(21)
    for _ in range(6):
        machine.audit("often", kill_at=1 + chance.randrange(8), delay=chance.random() * 0.02)
    last = machine.audit("often")
    assert last["code"] == 0, last["err"]
    same(machine.folder / "often", whole)
    nothing_twice(machine.noted("often"))
    # Asked once more, everything is read back: no unit and no probe runs again.
    before = machine.noted("often")
    machine.audit("often")
    assert [note for note in machine.noted("often")[len(before) :] if note[0] == "begin"] == []
    same(machine.folder / "often", whole)


def test_a_full_disk_is_one_message_and_the_run_goes_on(machine, whole):
    sizes = (6_000, 40_000, 80_000)
    codes = []
    for size in sizes:
        name = f"full-{size}"
        told = machine.audit(name, file_size=size)
        codes.append(told["code"])
        if told["code"]:
            assert told["code"] == 2, told["err"]
            assert "Traceback" not in told["err"]
            assert told["err"].splitlines()[-1].startswith("error: ")
            assert told["out"] == ""
        assert machine.audit(name)["code"] == 0
        same(machine.folder / name, whole)
        nothing_twice(machine.noted(name))
    assert codes.count(2) >= 2


def test_the_installed_command_survives_kill_9(machine, whole):
    run = machine.folder / "command"
    program = str(Path(sys.executable).with_name("trustbound"))
    started = subprocess.Popen([program, *machine.command(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    units = 0
    while units < 4 and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(sqlite3.Error):
            if (run / "audit.sqlite").exists():
                with contextlib.closing(sqlite3.connect(f"file:{run}/audit.sqlite?mode=ro", uri=True)) as base:
                    units = base.execute("SELECT count(*) FROM unit").fetchone()[0]
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not (run / "record.json").exists()
    assert machine.audit("command")["code"] == 0
    same(run, whole)
