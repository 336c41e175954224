"""The evidence store: whole units or nothing, one request, one writer, and errors that say what to do."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustbound.errors import RecordError
from trustbound.record.cost import Cost
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.migrations import EVIDENCE_SCHEMA
from trustbound.record.store import EvidenceRow, Store

ASKED = {"model": "abc", "seed": 0, "threats": ["linf:0.1"]}


def row(position, **changes):
    return EvidenceRow(**{"position": position, "found": False, **changes})


def process(code, *arguments):
    """Another process that runs code with the store imported."""
    head = "import sys, os\nfrom trustbound.record.store import *\nfrom trustbound.record.cost import Cost\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ran(code, *arguments):
    started = process(code, *arguments)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 0, err
    return out.strip()


ROWS = st.lists(
    st.builds(
        EvidenceRow,
        position=st.integers(0, 500),
        found=st.booleans(),
        margin=st.none() | st.floats(allow_nan=False),
        size=st.none() | st.floats(allow_nan=False),
        prediction=st.none() | st.integers(0, 999),
        confidence=st.none() | st.floats(0, 1),
        tie=st.booleans(),
        forwards=st.integers(0, 2**40),
        backwards=st.integers(0, 2**40),
        queries=st.integers(0, 2**40),
        payload=st.dictionaries(
            st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4), max_size=2
        ),
    ),
    unique_by=lambda one: one.position,
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.floats(0, 1e6), st.lists(st.text(max_size=20), max_size=2))
def test_evidence_comes_back_as_it_was_given_by_position(tmp_path_factory, rows, seconds, events):
    run = tmp_path_factory.mktemp("run")
    with Store.open(run, ASKED) as store:
        store.commit("a/b", 3, rows, Cost(5, 6, 7, seconds), events)
    with Store.open(run, ASKED) as store:
        assert store.rows("a/b") == sorted(rows, key=lambda one: one.position)
        assert store.done("a/b") == {3: len(rows)}
        assert store.cost("a/b") == store.cost() == Cost(5, 6, 7, seconds)
        assert store.events() == tuple(f"a/b: {event}" for event in events)
        assert store.rows("a") == []
        assert store.done("a") == {}
        assert store.cost("a") == Cost()


def test_shards_of_a_step_add_up_in_the_order_of_the_examples(tmp_path):
    with Store.open(tmp_path, ASKED) as store:
        store.commit("s", 1, [row(7), row(5)], Cost(2, 1), ["late"])
        store.commit("s", 0, [row(6), row(1)], Cost(3, 2), ["early"])
        store.commit("t", 0, [row(0)], Cost(10, 10))
        assert [one.position for one in store.rows("s")] == [1, 5, 6, 7]
        assert store.done("s") == {0: 2, 1: 2}
        assert store.cost("s") == Cost(5, 3)
        assert store.cost() == Cost(15, 13)
        assert store.events() == ("s: late", "s: early")


def test_a_unit_is_kept_whole_or_not_at_all(tmp_path):
    with Store.open(tmp_path, ASKED) as store:
        store.commit("s", 0, [row(0)], Cost(1))
        with pytest.raises(RecordError, match="intact"):
            store.commit("s", 1, [row(1), row(2), row(1)], Cost(1))
        assert store.done("s") == {0: 1}
        assert store.rows("s") == [row(0)]
        assert store.cost() == Cost(1)
        store.commit("s", 1, [row(1)], Cost(1))
        with pytest.raises(RecordError):
            store.commit("s", 1, [row(9)], Cost(1))
        assert [one.position for one in store.rows("s")] == [0, 1]


def test_a_killed_writer_leaves_whole_units(tmp_path):
    code = """
        store = Store.open(sys.argv[1], {})
        for shard in range(10**6):
            store.commit("s", shard, [EvidenceRow(position=50 * shard + at, found=False) for at in range(50)], Cost(1))
            print(shard, flush=True)
    """
    writer = process(code, tmp_path)
    for _ in range(5):
        said = int(writer.stdout.readline())
    time.sleep(0.013)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    with Store.open(tmp_path, {}) as store:
        done = store.done("s")
        assert list(done) == list(range(len(done)))
        assert len(done) > said  # what was said to be kept is kept
        assert set(done.values()) == {50}
        assert [one.position for one in store.rows("s")] == list(range(50 * len(done)))


def test_it_writes_ahead_and_flushes_each_unit(tmp_path):
    with Store.open(tmp_path, ASKED) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "audit.sqlite")) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_another_request_is_refused_by_the_keys_that_differ(tmp_path):
    with Store.open(tmp_path, ASKED) as store:
        store.commit("s", 0, [row(0)], Cost(1))
    with pytest.raises(RecordError) as refused:
        Store.open(tmp_path, {**ASKED, "seed": 1, "extra": None})
    said = str(refused.value)
    assert "seed was 0, is 1" in said
    assert "extra was not given, is null" in said
    assert "model" not in said.replace("model file", "")
    assert "--run" in said
    with Store.open(tmp_path, dict(reversed(ASKED.items()))) as store:
        assert store.done("s") == {0: 1}
    assert Store.asked(tmp_path) == ASKED
    assert Store.asked(tmp_path / "nothing") is None


def test_a_request_that_found_nothing_does_not_bar_the_next_one(tmp_path):
    Store.open(tmp_path, ASKED).close()
    with Store.open(tmp_path, {"model": "right"}) as store:
        store.fact("x", lambda: 1)
    assert Store.asked(tmp_path) == {"model": "right"}
    with pytest.raises(RecordError, match="model"):
        Store.open(tmp_path, ASKED)


def test_a_run_that_was_asked_with_other_keys_is_another_versions(tmp_path):
    with Store.open(tmp_path, {**ASKED, "bygone": 1}) as store:
        store.fact("x", lambda: 1)
    with pytest.raises(RecordError, match=r"bygone.*another version"):
        Store.open(tmp_path, ASKED)
    assert Store.asked(tmp_path) == {**ASKED, "bygone": 1}


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    code = """
        try:
            Store.open(sys.argv[1], {}).close()
            print("opened")
        except Exception as error:
            print(type(error).__name__, error)
    """
    with Store.open(tmp_path, {}) as store:
        store.commit("s", 0, [row(0)], Cost(1))
        said = ran(code, tmp_path)
        assert said.startswith("RecordError another process is writing")
        assert str(tmp_path) in said
    assert ran(code, tmp_path) == "opened"


def test_a_newer_schema_is_refused_in_one_sentence_and_left_alone(tmp_path):
    Store.open(tmp_path, ASKED).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "audit.sqlite")) as other:
        other.execute(f"PRAGMA user_version = {EVIDENCE_SCHEMA + 1}")
    before = (tmp_path / "audit.sqlite").read_bytes()
    with pytest.raises(RecordError) as refused:
        Store.open(tmp_path, ASKED)
    assert str(refused.value) == (
        f"{tmp_path / 'audit.sqlite'} has schema {EVIDENCE_SCHEMA + 1}, which a newer trustbound wrote, and this one "
        f"knows schemas up to {EVIDENCE_SCHEMA}: update trustbound to go on with it."
    )
    assert (tmp_path / "audit.sqlite").read_bytes() == before


def test_another_programs_database_is_refused_and_left_alone(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "audit.sqlite")) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.commit()
    before = (tmp_path / "audit.sqlite").read_bytes()
    with pytest.raises(RecordError, match="another program"):
        Store.open(tmp_path, ASKED)
    assert (tmp_path / "audit.sqlite").read_bytes() == before


def test_a_file_that_is_no_database_is_a_record_error(tmp_path):
    (tmp_path / "audit.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(RecordError, match=r"audit\.sqlite"):
        Store.open(tmp_path, ASKED)
    with pytest.raises(RecordError):
        Store.asked(tmp_path)


def large(run):
    """A run with evidence on many pages."""
    with Store.open(run, ASKED) as store:
        for shard in range(8):
            rows = [row(300 * shard + at, margin=at / 7, size=1.0) for at in range(300)]
            store.commit("s", shard, rows, Cost(1), ["event " * 20])


@pytest.mark.parametrize("damage", ["truncated", "overwritten"])
def test_a_damaged_database_is_a_record_error_wherever_it_is_noticed(tmp_path, damage):
    large(tmp_path)
    path = tmp_path / "audit.sqlite"
    content = path.read_bytes()
    assert len(content) > 40_000
    for leftover in tmp_path.glob("audit.sqlite-*"):
        leftover.unlink()
    half = len(content) // 2
    path.write_bytes(content[:half] if damage == "truncated" else content[:8192] + b"\xaa" * (len(content) - 8192))

    def read_all():
        with Store.open(tmp_path, ASKED) as store:
            store.rows("s"), store.cost(), store.events(), store.done("s")
            store.commit("t", 0, [row(at) for at in range(3000)], Cost(1))

    with pytest.raises(RecordError, match=r"audit\.sqlite"):
        read_all()


def test_a_full_disk_keeps_what_was_finished_and_the_run_goes_on_afterwards(tmp_path):
    code = """
        import resource
        with Store.open(sys.argv[1], {}) as store:
            store.commit("s", 0, [EvidenceRow(position=0, found=True)], Cost(1))
            kept = 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
            try:
                for shard in range(1, 500):
                    rows = [EvidenceRow(position=100 * shard + at, found=False) for at in range(100)]
                    store.commit("s", shard, rows, Cost(1))
                    kept = shard
            except RecordError as error:
                print(kept, "intact" in str(error) and "again" in str(error), len(store.done("s")))
    """
    kept, clear, seen = ran(code, tmp_path).split()
    assert clear == "True"
    assert int(seen) == int(kept) + 1
    with Store.open(tmp_path, {}) as store:
        assert list(store.done("s")) == list(range(int(kept) + 1))
        assert len(store.rows("s")) == 1 + 100 * int(kept)
        store.commit("s", 999, [row(10**6)], Cost(1))


@pytest.mark.parametrize("below", ["file", "proc"])
def test_a_directory_that_cannot_be_written_is_a_record_error(tmp_path, below):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "run" if below == "file" else "/proc/trustbound-run"
    with pytest.raises(RecordError, match="writable"):
        Store.open(place, ASKED)
    with pytest.raises(RecordError, match="writable"):
        Store.open(tmp_path / "file", ASKED)


def test_a_refused_opening_holds_no_lock(tmp_path):
    large(tmp_path)
    for _ in range(3):
        with pytest.raises(RecordError, match="another audit"):
            Store.open(tmp_path, {"model": "other"})
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        with pytest.raises(RecordError):
            Store.open(tmp_path, {"model": "other"})
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before
    Store.open(tmp_path, ASKED).close()


def test_a_fact_is_computed_once_in_the_life_of_a_run(tmp_path):
    asked = []

    def compute():
        asked.append(1)
        return {"value": [1.5, None, "text"], "count": len(asked)}

    with Store.open(tmp_path, ASKED) as store:
        assert not store.has_fact("x")
        first = store.fact("x", compute)
        assert store.fact("x", compute) == first == {"value": [1.5, None, "text"], "count": 1}
    with Store.open(tmp_path, ASKED) as store:
        assert store.has_fact("x")
        assert store.fact("x", compute) == first
    assert len(asked) == 1


def test_a_fact_that_fails_is_asked_again(tmp_path):
    with Store.open(tmp_path, ASKED) as store:
        with pytest.raises(ZeroDivisionError):
            store.fact("x", lambda: 1 / 0)
        assert store.fact("x", lambda: 2) == 2


def test_steps_keep_their_tensors_apart(tmp_path):
    steps = ["linf:0.1/first", "linf:0.1/near", "l2:0.1/first", "linf:1/first", "linf:8/255/first"]
    with Store.open(tmp_path, ASKED) as store:
        places = {store.tensors(step, shard) for step in steps for shard in (0, 1, 12345)}
    assert len(places) == 3 * len(steps)
    assert {place.parent for place in places} == {tmp_path / "adversarials"}


def test_scratch_files_of_a_killed_writer_are_swept(tmp_path):
    Store.open(tmp_path, ASKED).close()
    left = tmp_path / "adversarials" / ".step-0000.safetensors.123.part"
    kept = tmp_path / "adversarials" / "step-0000.safetensors"
    left.write_bytes(b"half")
    kept.write_bytes(b"whole")
    Store.open(tmp_path, ASKED).close()
    assert not left.exists()
    assert kept.read_bytes() == b"whole"


def test_a_temporary_run_leaves_nothing():
    store, folder = Store.temporary(ASKED)
    store.commit("s", 0, [row(0)], Cost(1))
    store.close()
    folder.cleanup()
    assert not os.path.exists(folder.name)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "record.json"
    write_atomically(path, lambda to: to.write_text("old"))

    def torn(to):
        to.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(RecordError, match="No space left"):
        write_atomically(path, torn)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]
    write_atomically(path, lambda to: to.write_text("new"))
    assert path.read_text() == "new"
    shutil.rmtree(tmp_path)
    with pytest.raises(RecordError):
        write_atomically(path, lambda to: to.write_text("new"))
