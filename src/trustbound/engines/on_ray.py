"""Units side by side in Ray actors of one thread each.

Subject and function are pickled once, put into Ray's object store once, and unpickled once in each worker. Results
come back in the order of the units, so that whoever keeps them writes the same evidence as in process. A worker that
dies is replaced, and its unit is carried out again: units are pure.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import sys
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import cloudpickle
from ray.exceptions import RayActorError, RayError, RayTaskError

from trustbound.engines.engine import Execute
from trustbound.errors import EngineError, InputError, UnsupportedError
from trustbound.model.files.factory import MADE

#: Workers that one unit may cost before it is blamed for their deaths.
DEATHS = 3

#: Units per worker that may be finished before one that was begun earlier.
AHEAD = 4

#: Ray is told to keep to itself: no statistics sent, no hint printed.
_SILENCE = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Raised:
    """An exception of a unit, on its way back."""

    error: Exception


class Worker:
    """What runs in a process of its own: the subject, unpickled once, and one unit at a time."""

    def __init__(self, sent: bytes) -> None:
        self._sent: bytes | None = sent
        self._execute: Any = None
        self._subject: Any = None

    def load(self) -> str:
        """Unpack what was sent; why it cannot be, in words, or nothing."""
        torch.set_num_threads(1)
        try:
            self._execute, self._subject = pickle.loads(self._sent or b"")
        except Exception as error:  # whatever a module that is missing here raises
            return f"{type(error).__name__}: {error}"
        self._sent = None
        return ""

    def run(self, unit: Any, *given: Any) -> Any:
        """The result of a unit, or what it raised."""
        try:
            return self._execute(unit, self._subject, *given)
        except Exception as error:
            error.add_note(f"in a worker:\n{traceback.format_exc()}")
            return Raised(_portable(error))


class OnRay:
    """Actors on this machine, on a cluster at an address, or on the Ray that this process uses already.

    What was started here is shut down by `close`; a cluster that was there before is left running.

    Raises      UnsupportedError, before any unit is run, for a subject that cannot be pickled or not be unpickled in a
                worker, or that is on an accelerator; InputError for more workers than the cluster has cores;
                EngineError where no cluster answers, or a unit kills its worker again and again.
    """

    def __init__(self, execute: Execute, subject: Any, *, workers: int | None, address: str | None) -> None:
        sent = _packed(execute, subject)
        self.events: list[str] = []
        self._own = not ray.is_initialized()
        if self._own:
            _connect(workers, address)
        elif address is not None:
            raise InputError(
                f"this process is connected to a Ray already; got the address {address!r} as well. Leave it out, or "
                "call ray.shutdown() before."
            )
        try:
            self._hands = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._check_room()
            self._sent = ray.put(sent)
            self._hired = [self._hire() for _ in range(self._hands)]
            self._load(self._hired)
        except BaseException:
            self.close()
            raise

    def run(self, units: Sequence[Any], *given: Any) -> Iterator[Any]:
        """The result of each unit, in their order; what is given to all of them is put into the store once."""
        waiting = deque(enumerate(units))
        shared = [ray.put(one) for one in given]
        busy: dict[Any, tuple[int, Any, Any]] = {}
        held: dict[int, Any] = {}
        deaths: Counter[int] = Counter()
        idle = list(self._hired)

        def hand_out(turn: int) -> None:
            while idle and waiting and waiting[0][0] < turn + AHEAD * self._hands:
                number, unit = waiting.popleft()
                worker = idle.pop(0)
                busy[worker.run.remote(unit, *shared)] = (number, unit, worker)

        for turn in range(len(units)):
            hand_out(turn)
            while turn not in held:
                (done,), _ = ray.wait(list(busy), num_returns=1)
                number, unit, worker = busy.pop(done)
                try:
                    held[number] = ray.get(done)
                    idle.append(worker)
                except RayTaskError:  # of Ray's own making: a worker catches what a unit raises
                    raise
                except RayError as error:
                    deaths[number] += 1
                    idle.append(self._replaced(worker, unit, deaths[number], error))
                    waiting.appendleft((number, unit))
                hand_out(turn)  # before anybody is given the result: keeping it takes time
            found = held.pop(turn)
            if isinstance(found, Raised):
                raise found.error
            yield found

    def close(self) -> None:
        """Dismiss the workers, and shut down what was started here."""
        with contextlib.suppress(Exception):  # some are dead already
            for worker in getattr(self, "_hired", ()):
                ray.kill(worker, no_restart=True)
        self._hired = []
        if self._own and ray.is_initialized():
            ray.shutdown()

    def _check_room(self) -> None:
        """Refuse workers that would wait for a core for ever."""
        cores = int(ray.cluster_resources().get("CPU", 0))
        if self._hands > cores:
            raise InputError(
                f"`workers` must be at most the cores of the Ray cluster, one for each; got {self._hands} for {cores}."
            )

    def _hire(self) -> Any:
        return ray.remote(num_cpus=1, max_restarts=0)(Worker).remote(self._sent)

    def _load(self, workers: Sequence[Any]) -> None:
        """Wait until workers hold the subject."""
        try:
            told = ray.get([worker.load.remote() for worker in workers])
        except RayActorError as error:
            raise EngineError(f"a worker died before it was given any work: {_first(error)}") from error
        if reasons := [reason for reason in told if reason]:
            raise UnsupportedError(
                f"the ray engine needs a model and data that its workers can load; there they raise {reasons[0]}. Give "
                "the model as a file or as a class of an installed package, or use the engine in-process."
            )

    def _replaced(self, worker: Any, unit: Any, deaths: int, error: RayError) -> Any:
        """A new worker in place of one that died with a unit."""
        name = getattr(unit, "step", "a unit")
        if deaths >= DEATHS:
            raise EngineError(
                f"{deaths} workers died of the same unit of {name}: {_first(error)}. If memory ran out, "
                "give fewer workers or a smaller unit_size; what was finished is kept, and the same command goes on."
            ) from error
        self.events.append(f"a worker died during {name}; its unit was carried out again")
        new = self._hire()
        self._hired[self._hired.index(worker)] = new
        self._load([new])
        return new


def _connect(workers: int | None, address: str | None) -> None:
    """Join the cluster at an address, or start one on this machine, in silence."""
    if address is not None:
        _check_answers(address)
    before = {name: os.environ.get(name) for name in _SILENCE}
    os.environ.update(_SILENCE)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", num_cpus=workers or _cores(), include_dashboard=False, **options)
        else:
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        where = "be started on this machine" if address is None else f"be reached at {address}"
        raise EngineError(f"Ray cannot {where}: {_first(error)}") from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _check_answers(address: str) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise InputError(
            f"the address of a Ray cluster is HOST:PORT, or auto for the one on this machine; got {address!r}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise EngineError(
            f"Ray cannot be reached at {address}: {error}. Give the address that `ray start` told."
        ) from error


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packed(execute: Execute, subject: Any) -> bytes:
    """Function and subject as bytes; classes of a model's own .py file travel with them."""
    if (device := subject.model.device.type) != "cpu":
        raise UnsupportedError(f"the ray engine serves models on the CPU; this one is on {device}. Use in-process.")
    files = [module for name, module in sys.modules.items() if name.startswith(MADE)]
    for module in files:
        cloudpickle.register_pickle_by_value(module)
    try:
        packed: bytes = cloudpickle.dumps((execute, subject))
        return packed
    except Exception as error:  # pickling runs the code of whatever it meets
        raise UnsupportedError(
            f"the ray engine needs a model and data that can be pickled; {subject.model.name} cannot "
            f"({type(error).__name__}: {_first(error)}). Use the engine in-process."
        ) from error
    finally:
        for module in files:
            cloudpickle.unregister_pickle_by_value(module)


def _portable(error: Exception) -> Exception:
    """An exception that survives the way; one that does not is told in words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _first(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
