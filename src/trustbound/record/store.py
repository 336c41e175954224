"""The run directory: one SQLite file of evidence, tensors beside it, one writer at a time.

    RUN/audit.sqlite        what was asked, and one row per step × example
    RUN/adversarials/       STEP-SHARD.safetensors, written before the rows that speak of them
    RUN/record.json, report.html, gallery.safetensors

A work unit (step × shard) commits in one transaction once its tensors are on disk. A killed audit has lost
the unit in flight, nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from trustbound.errors import RecordError
from trustbound.record.codec import from_document, to_document
from trustbound.record.cost import Cost
from trustbound.record.migrations import EVIDENCE_SCHEMA, migrate_evidence

_TABLES = """
CREATE TABLE asked (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE unit (
    step TEXT NOT NULL, shard INTEGER NOT NULL, count INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, queries INTEGER NOT NULL, seconds REAL NOT NULL,
    events TEXT NOT NULL, purposes TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (step, shard));
CREATE TABLE evidence (
    step TEXT NOT NULL, position INTEGER NOT NULL, shard INTEGER NOT NULL, found INTEGER NOT NULL,
    margin REAL, size REAL, prediction INTEGER, confidence REAL, tie INTEGER NOT NULL,
    forwards INTEGER NOT NULL, backwards INTEGER NOT NULL, queries INTEGER NOT NULL,
    payload TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (step, position));
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class EvidenceRow:
    """What one stage found about one example.

    Parameters
        position    place of the example in the audit.
        found       broken by it, or proven by it.
        margin      smallest margin seen, or the proven lower bound of it.
        size        of the adversarial example, float64; None where there is none.
        tie         the margin is below rounding error: neither broken nor proven.
        payload     what one kind of task alone keeps of an example: plain values by name.
    """

    position: int
    found: bool
    margin: float | None = None
    size: float | None = None
    prediction: int | None = None
    confidence: float | None = None
    tie: bool = False
    forwards: int = 0
    backwards: int = 0
    queries: int = 0
    payload: Mapping[str, Any] = field(default_factory=dict, hash=False)


_COLUMNS = tuple(column.name for column in fields(EvidenceRow))


def _values(row: EvidenceRow) -> tuple[Any, ...]:
    """A row as its columns hold it."""
    core = {column: getattr(row, column) for column in _COLUMNS}
    return tuple({**core, "payload": json.dumps(to_document(row.payload), allow_nan=False)}.values())


def _row(values: Sequence[Any]) -> EvidenceRow:
    """A row from its columns."""
    held = dict(zip(_COLUMNS, values, strict=True))
    flags = {flag: bool(held[flag]) for flag in ("found", "tie")}
    return EvidenceRow(**{**held, **flags, "payload": json.loads(held["payload"])})


class Store:
    """The evidence of one run.

    A run that an older version began is brought to today's schema when it is opened.

    Raises      RecordError when the directory cannot be written, belongs to another request, was written by a
                newer version, or is in use.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run, Store.open(run, {"model": "abc"}) as store:
    ...     store.commit("clean", 0, [EvidenceRow(position=0, found=False)], Cost(forwards=1))
    ...     store.done("clean")
    {0: 1}
    """

    def __init__(self, run: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.run = run
        self._connection = connection
        self._lock = lock

    @classmethod
    def open(cls, run: str | Path, asked: Mapping[str, Any]) -> Store:
        """Create a run, or go on with it where the same was asked.

        `asked` says what makes two runs the same: model and data digests, threats, budget, seed …
        """
        folder = Path(run)
        try:
            (folder / "adversarials").mkdir(parents=True, exist_ok=True)
            lock = _locked(folder / "lock")
        except OSError as error:
            raise RecordError(
                f"the run directory must be writable; {folder} is not: {error.strerror}. Choose another --run."
            ) from error
        try:
            connection = _connected(folder / "audit.sqlite")
        except BaseException:
            os.close(lock)
            raise
        store = cls(folder, connection, lock)
        try:
            store._agree(asked)
        except BaseException:
            store.close()
            raise
        _swept(folder)
        return store

    @classmethod
    def temporary(cls, asked: Mapping[str, Any]) -> tuple[Store, tempfile.TemporaryDirectory[str]]:
        """A run that nobody asked to keep; the second part removes it."""
        folder = tempfile.TemporaryDirectory(prefix="trustbound-")
        return cls.open(folder.name, asked), folder

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the database and the lock."""
        self._connection.close()
        with contextlib.suppress(OSError):
            os.close(self._lock)

    @staticmethod
    def asked(run: str | Path) -> dict[str, Any] | None:
        """What a run was asked, without opening it for writing; None where there is no run."""
        path = Path(run) / "audit.sqlite"
        if not path.is_file():
            return None
        try:
            with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as connection:
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'asked'").fetchone():
                    return None
                found = {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM asked")}
                return found or None
        except sqlite3.Error as error:
            raise RecordError(
                f"{path} must be a trustbound run database; SQLite says: {error}. Choose another --run."
            ) from error

    def _agree(self, asked: Mapping[str, Any]) -> None:
        before = dict(self._read("SELECT key, value FROM asked"))
        now = {key: json.dumps(value, sort_keys=True) for key, value in asked.items()}
        different = [key for key in {**now, **before} if before.get(key) != now.get(key)]
        if not different:
            return
        if not self._read("SELECT 1 FROM unit UNION ALL SELECT 1 FROM fact LIMIT 1"):
            # Nothing was found yet: a first request that was refused must not bar the corrected one.
            with self._writing():
                self._connection.execute("DELETE FROM asked")
                self._connection.executemany("INSERT INTO asked VALUES (?, ?)", sorted(now.items()))
        else:
            version = "" if set(before) == set(now) else "; another version of trustbound may have begun it"
            said = "; ".join(
                f"{key} was {_short(before.get(key, 'not given'))}, is {_short(now.get(key, 'not given'))}"
                for key in different[:4]
            )
            raise RecordError(
                f"the run directory {self.run} holds another audit ({said}{version}). Give the same request "
                "to go on with it, or another --run, or remove the directory."
            )

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RecordError(
                f"the evidence in {self.run / 'audit.sqlite'} cannot be read; SQLite says: {error}. Restore the file, "
                "or choose another --run."
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise RecordError(
                f"the evidence could not be written to {self.run / 'audit.sqlite'}: {error}. What was finished "
                "before is intact; make room (or lift the file-size limit) and give the same command again."
            ) from error
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def commit(
        self, step: str, shard: int, rows: Iterable[EvidenceRow], cost: Cost, events: Iterable[str] = ()
    ) -> None:
        """Keep one work unit: its rows and what it cost, all or nothing."""
        rows = list(rows)
        places = ", ".join("?" for _ in range(len(_COLUMNS) + 2))
        with self._writing():
            self._connection.execute(
                "INSERT INTO unit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    step,
                    shard,
                    len(rows),
                    cost.forwards,
                    cost.backwards,
                    cost.queries,
                    cost.seconds,
                    json.dumps(list(events)),
                    json.dumps(to_document(cost.purposes)),
                ),
            )
            self._connection.executemany(
                f"INSERT INTO evidence (step, shard, {', '.join(_COLUMNS)}) VALUES ({places})",
                [(step, shard, *_values(row)) for row in rows],
            )

    def done(self, step: str) -> dict[int, int]:
        """Finished shards of a step, with the number of their rows."""
        return dict(self._read("SELECT shard, count FROM unit WHERE step = ? ORDER BY shard", (step,)))

    def begun(self, beginning: str) -> bool:
        """Whether a unit is finished of a step whose name begins so."""
        return bool(self._read("SELECT 1 FROM unit WHERE substr(step, 1, ?) = ? LIMIT 1", (len(beginning), beginning)))

    def rows(self, step: str) -> list[EvidenceRow]:
        """The evidence of a step, by position."""
        found = self._read(f"SELECT {', '.join(_COLUMNS)} FROM evidence WHERE step = ? ORDER BY position", (step,))
        return [_row(values) for values in found]

    def cost(self, step: str | None = None) -> Cost:
        """What a step cost, or all of them."""
        where, values = ("", ()) if step is None else ("WHERE step = ?", (step,))
        sums = self._read(
            "SELECT total(forwards), total(backwards), total(queries), total(seconds) FROM unit " + where, values
        )[0]
        told = [json.loads(text) for (text,) in self._read("SELECT purposes FROM unit " + where, values)]
        purposes = sum((from_document(Cost, {"purposes": one}) for one in told), Cost()).purposes
        return Cost(int(sums[0]), int(sums[1]), int(sums[2]), float(sums[3]), purposes)

    def spent_on(self, beginning: str) -> dict[int, tuple[int, int, int]]:
        """Forwards, backwards and queries of each example, over all steps whose names begin so."""
        found = self._read(
            "SELECT position, sum(forwards), sum(backwards), sum(queries) FROM evidence "
            "WHERE substr(step, 1, ?) = ? GROUP BY position",
            (len(beginning), beginning),
        )
        return {position: (forwards, backwards, queries) for position, forwards, backwards, queries in found}

    def events(self) -> tuple[str, ...]:
        """What happened on the way, in the order of the steps."""
        found = self._read("SELECT step, events FROM unit ORDER BY rowid")
        return tuple(f"{step}: {event}" for step, events in found for event in json.loads(events))

    def fact(self, name: str, compute: Callable[[], Any]) -> Any:
        """A value that is computed once per run and read back on resume (JSON).

        Decisions that depend on a clock or a measurement go through here, so that a resumed audit takes the
        same ones.
        """
        found = self._read("SELECT value FROM fact WHERE name = ?", (name,))
        if found:
            return json.loads(found[0][0])
        text = json.dumps(compute(), allow_nan=False)
        with self._writing():
            self._connection.execute("INSERT INTO fact VALUES (?, ?)", (name, text))
        return json.loads(text)

    def has_fact(self, name: str) -> bool:
        """Whether a value was computed before."""
        return bool(self._read("SELECT 1 FROM fact WHERE name = ?", (name,)))

    def tensors(self, step: str, shard: int) -> Path:
        """Where a unit's adversarial inputs lie."""
        return self.run / "adversarials" / f"{tensors_stem(step)}-{shard:04d}.safetensors"


def tensors_stem(step: str) -> str:
    """How the names of a step's files begin.

    >>> tensors_stem("linf:0.1/pgd")
    'linf-0.1_pgd'
    """
    return step.replace("/", "_").replace(":", "-")


def _short(text: str) -> str:
    """The head of a long value, a digest say."""
    return text if len(text) <= 40 else f"{text[:16]}…"


def _swept(folder: Path) -> None:
    """Remove the scratch files of writers that were killed; the lock says that none is writing now."""
    for scratch in (*folder.glob(".*.part"), *(folder / "adversarials").glob(".*.part")):
        with contextlib.suppress(OSError):
            scratch.unlink()


def _connected(path: Path) -> sqlite3.Connection:
    connection = None
    try:
        connection = sqlite3.connect(path, isolation_level=None)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables:
            raise RecordError(
                f"{path} must be a trustbound run database; it is another program's. Choose another --run."
            )
        if version:
            migrate_evidence(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if version == 0:
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {EVIDENCE_SCHEMA}; COMMIT;")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise RecordError(
            f"{path} must be a trustbound run database; SQLite says: {error}. Choose another --run."
        ) from error
    except RecordError:
        if connection is not None:
            connection.close()
        raise
    return connection


def _locked(path: Path) -> int:
    """Hold the directory until the process ends, however it ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        import fcntl
    except ImportError:  # no advisory locks on this platform: SQLite's own lock still guards each write
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise RecordError(
            f"another process is writing to {path.parent}. Wait for it, or choose another --run."
        ) from error
    return handle
