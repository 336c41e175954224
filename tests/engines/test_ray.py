"""On Ray an audit has the same bits as in process, whoever is killed meanwhile. Real clusters, real processes."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

import trustbound as tb
from trustbound.audits.work_units.subject import Subject
from trustbound.engines import started
from trustbound.errors import EngineError, InputError, ModelError, UnsupportedError
from trustbound.model.dyadic import dyadic_network

#: On whose grid inputs and epsilon lie: the network's float32 sums are exact.
GRID = 6
THREAT = f"linf:{3 / 2**GRID}"
ASKED = {"budget": "quick", "curve_examples": 24, "unit_size": 8}

SPEC = """
import torch
from trustbound.model.dyadic import dyadic_network


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        made = dyadic_network(input_shape=(1, 4, 4), widths=(12,), classes=4, grid=10, seed=2)
        self.inner = getattr(made, "module", made)

    def forward(self, inputs):
        return self.inner(inputs)
"""


@pytest.fixture(scope="module")
def exact():
    model = dyadic_network(input_shape=(1, 4, 4), widths=(12,), classes=4, grid=10, seed=2)
    inputs = torch.randint(0, 2**GRID + 1, (48, 1, 4, 4), generator=torch.Generator().manual_seed(4)) / 2**GRID
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    labels[:4] = (labels[:4] + 1) % 4
    return model, tb.LabelledSet(inputs, labels)


@pytest.fixture(scope="module")
def cluster():
    """A Ray of this process's own, which engines find and leave running."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    assert ray.is_initialized()
    ray.shutdown()


def subject(model=None):
    data = tb.LabelledSet(torch.rand(2, 4), [0, 1])
    return Subject(model=model or tb.wrap(torch.nn.Linear(4, 2)), data=data, threats={})


@contextlib.contextmanager
def engine(execute, **more):
    with contextlib.closing(started("ray", execute, subject(), **{"workers": 2, **more})) as made:
        yield made


def evidence(run):
    """All that a run holds but measured seconds, in the order in which it was written."""
    with contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base:
        base.row_factory = sqlite3.Row
        rows = [tuple(row) for row in base.execute("SELECT * FROM evidence ORDER BY rowid")]
        units = [
            {name: row[name] for name in row.keys() if name != "seconds"}
            for row in base.execute("SELECT * FROM unit WHERE step != 'engine' ORDER BY rowid")
        ]
    record = json.loads((run / "record.json").read_text())
    timeless(record)
    return {
        "rows": rows,
        "units": units,
        **record,
        "tensors": {path.name: path.read_bytes() for path in sorted((run / "adversarials").iterdir())},
    }


def timeless(document):
    """Leave out what a clock, a command line or an engine's fate says, in place."""
    for name in ("created", "command", "backward_cost"):
        document.pop(name, None)
    if "events" in document:
        document["events"] = [one for one in document["events"] if not one.startswith(("wall clock", "engine: "))]
    for value in document.values():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                part.pop("seconds", None)
                timeless(part)


def same(run, whole):
    found, expected = evidence(run), evidence(whole)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == value, name


@pytest.fixture(scope="module")
def whole(exact, tmp_path_factory):
    """The run of the audit in process."""
    run = tmp_path_factory.mktemp("whole")
    record = tb.audit(*exact, [THREAT], run=run, **ASKED)
    assert {row.verdict for row in record.examples} >= {"broken", "certified", "misclassified"}
    return run


def workers(ancestor):
    """Processes of Ray workers that hold a subject, below a process."""
    parents, found = {}, []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = int(entry.name)
            parents[pid] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(pid)

    def below(pid):
        while pid in parents and pid != ancestor:
            pid = parents[pid]
        return pid == ancestor

    return [pid for pid in found if below(pid)]


class Killing:
    """A progress that kills a worker in the middle of each of some steps."""

    def __init__(self, *steps):
        self.steps, self.at = list(steps), ""

    def expect(self, seconds):
        pass

    def begin(self, step, total):
        self.at = step

    def advance(self, count):
        if self.at in self.steps and count:
            self.steps.remove(self.at)
            os.kill(workers(os.getpid())[0], signal.SIGKILL)


def test_two_workers_give_the_same_run_bit_for_bit(exact, cluster, whole, tmp_path):
    tb.audit(*exact, [THREAT], engine="ray", workers=2, run=tmp_path, **ASKED)
    same(tmp_path, whole)
    assert ray.is_initialized()
    assert "engine: " not in (tmp_path / "record.json").read_text()


def test_workers_that_are_killed_change_nothing_but_events(exact, cluster, whole, tmp_path):
    # What is killed last may be missed by a check alone: they come after everything else.
    killing = Killing(f"{THREAT}/trial-smooth", f"{THREAT}/checks-after")
    record = tb.audit(*exact, [THREAT], engine="ray", workers=2, run=tmp_path, progress=killing, **ASKED)
    assert killing.steps == []
    same(tmp_path, whole)
    told = [event for event in record.events if event.startswith("engine: ")]
    assert len(told) == 2
    assert all("a worker died during" in event for event in told)


def test_the_command_survives_the_death_of_its_driver(exact, whole, tmp_path):
    """Killed in the middle, with a Ray of its own that says nothing; gone on with in process."""
    _, data = exact
    (tmp_path / "nets.py").write_text(SPEC)
    np.savez(tmp_path / "data.npz", x_test=data.inputs.numpy(), y_test=data.labels.numpy())
    run = tmp_path / "run"
    asked = [
        *(sys.executable, "-m", "trustbound", "audit", f"{tmp_path / 'nets.py'}:Net"),
        *("--data", str(tmp_path / "data.npz"), "--threat", THREAT),
        *("--budget", "quick", "--curve", "24", "--unit-size", "8", "--run", str(run)),
    ]
    with (tmp_path / "said").open("w") as said:
        driver = subprocess.Popen([*asked, "--engine", "ray", "--workers", "2"], stdout=said, stderr=said)
    deadline = time.monotonic() + 150
    units = 0
    while units < 20 and time.monotonic() < deadline and driver.poll() is None:
        time.sleep(0.02)
        with contextlib.suppress(sqlite3.Error):
            if (run / "audit.sqlite").exists():
                with contextlib.closing(sqlite3.connect(f"file:{run}/audit.sqlite?mode=ro", uri=True)) as base:
                    units = base.execute("SELECT count(*) FROM unit").fetchone()[0]
    hands = workers(driver.pid)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL
    assert len(hands) == 2
    assert not (run / "record.json").exists()
    for line in (tmp_path / "said").read_text().splitlines():
        assert line.startswith((THREAT, "clean: ")), "nothing but the progress of the audit"
        assert re.search(r": \d+ of \d+(; \d+ % of the audit, about .* left)?$", line)
    again = subprocess.run(asked, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stderr
    found, expected = evidence(run), evidence(whole)
    for name in ("rows", "units", "tensors", "brackets", "curves", "examples", "steps"):
        assert found[name] == expected[name], name
    while any(Path(f"/proc/{pid}").exists() for pid in hands) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in hands)  # a cluster dies with whoever started it


def test_results_come_in_the_order_of_the_units_and_exceptions_in_their_place(cluster):
    def execute(unit, subject):
        time.sleep(0.3 if unit == 0 else 0.0)
        if unit == 5:
            raise ModelError("the fifth")
        return unit, os.getpid()

    with engine(execute) as made:
        results = made.run(range(8))
        found = [next(results) for _ in range(5)]
        with pytest.raises(ModelError, match="the fifth"):
            next(results)
    assert [unit for unit, _ in found] == list(range(5))
    assert len({pid for _, pid in found}) == 2
    assert os.getpid() not in {pid for _, pid in found}


def test_a_worker_has_one_thread_and_no_share_in_this_process(cluster):
    given, threads = subject(), torch.get_num_threads()
    torch.manual_seed(1)
    state = torch.get_rng_state()

    def execute(unit, subject):
        torch.set_num_threads(unit)
        return torch.get_num_threads(), float(torch.rand(1))

    with contextlib.closing(started("ray", lambda unit, subject: torch.get_num_threads(), given, workers=1)) as made:
        assert list(made.run([0])) == [1]
    with contextlib.closing(started("ray", execute, given, workers=1)) as made:
        assert [number for number, _ in made.run([3, 2])] == [3, 2]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_unit_is_run_again_and_one_that_kills_again_and_again_is_named(cluster, tmp_path):
    marks = str(tmp_path)

    def execute(unit, subject):
        number = len(os.listdir(marks))
        if (unit == "once" and number == 0) or unit == "always":
            Path(marks, str(number)).touch()
            os._exit(9)
        return unit

    with engine(execute, workers=1) as made:
        assert list(made.run(["before", "once", "after"])) == ["before", "once", "after"]
        assert made.events == ["a worker died during a unit; its unit was carried out again"]
        with pytest.raises(EngineError, match="3 workers died of the same unit"):
            list(made.run(["before", "always"]))
    assert len(os.listdir(tmp_path)) == 1 + 3


def test_what_cannot_be_sent_is_refused_before_the_model_is_asked(cluster):
    asked = Counter()
    lock = threading.Lock()

    def scores(rows):
        with lock:
            asked["calls"] += 1
        return np.stack([rows[:, 0], 1 - rows[:, 0]], axis=1)

    data = tb.LabelledSet(torch.rand(4, 3), [0, 1, 0, 1])
    with pytest.raises(UnsupportedError, match=r"needs a model and data that can be pickled; .* cannot .*lock"):
        tb.audit(tb.wrap(scores), data, ["linf:0.1;access=scores"], budget="quick", engine="ray", workers=1)
    assert not asked


def test_what_a_worker_cannot_load_is_refused(cluster, tmp_path, monkeypatch):
    """A class that this process alone can import."""
    (tmp_path / "only_here.py").write_text("import torch\nclass Net(torch.nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(UnsupportedError, match="that its workers can load; there they raise ModuleNotFoundError"):
        tb.audit(only_here.Net(4, 2), subject().data, ["linf:0.1"], engine="ray", workers=1)


def test_an_exception_of_the_model_is_the_same_as_in_process(cluster):
    def scores(rows):
        if (rows[:, 0] > 0.9).any():
            raise ValueError("too bright")
        return np.stack([rows[:, 0], 1 - rows[:, 0]], axis=1)

    inputs = torch.full((6, 3), 0.5)
    inputs[4, 0] = 0.95
    model, data = tb.wrap(scores), tb.LabelledSet(inputs, [0] * 6)
    said = []
    for more in ({}, {"engine": "ray", "workers": 1}):
        with pytest.raises(ModelError) as caught:
            tb.audit(model, data, ["linf:0.01;access=scores"], budget="quick", **more)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "too bright" in said[0]


def test_more_workers_than_cores_are_refused(cluster):
    with pytest.raises(InputError, match=r"`workers` must be at most the cores of the Ray cluster, .* got 3 for 2"):
        started("ray", len, subject(), workers=3)


ELSEWHERE = """
import sys, torch, trustbound as tb
data = tb.LabelledSet(torch.rand(2, 4), [0, 1])
for address in ("ray://127.0.0.1:9", "127.0.0.1:9", sys.argv[1]):
    try:
        record = tb.audit(torch.nn.Linear(4, 2), data, ["linf:0.1"], budget="quick", engine="ray", workers=1,
                          address=address, curve_examples=0)
        print("audited", record.data.n)
    except tb.TrustboundError as error:
        print(type(error).__name__, error)
"""


def test_a_cluster_is_joined_at_its_address_and_left_running(cluster):
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(InputError, match="connected to a Ray already"):
        started("ray", len, subject(), address=address)
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, address], capture_output=True, text=True, timeout=200)
    told = done.stdout.splitlines()
    assert [line.split()[0] for line in told] == ["InputError", "EngineError", "audited"], done.stdout + done.stderr
    assert "is HOST:PORT" in told[0]
    assert told[1].startswith("EngineError Ray cannot be reached at 127.0.0.1:9: ")
    with engine(lambda unit, subject: unit + 1, workers=1) as made:
        assert list(made.run([1])) == [2]
