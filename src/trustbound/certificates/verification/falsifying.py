"""Look for an input that breaks a property; what is found counts once it was measured again."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.certificates.verification.properties import Query, Unsafe
from trustbound.model.wrapping import Model
from trustbound.record.disk.unpacking import unpacked

#: Steps of a descent, and how much smaller each is than the one before.
STEPS, DECAY = 40, 0.9
#: Unsafe sets that are searched for at once, the nearest; and starts for each.
SETS, STARTS = 32, 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Witness:
    """An input of a query's box, float64, whose outputs lie in an unsafe set: `outputs` as the network runs.

    `replayed` says in what it was measured beside the network itself.
    """

    inputs: Tensor
    outputs: Tensor
    replayed: tuple[str, ...]


@dataclass(kw_only=True, eq=False)
class Falsifier:
    """The search for witnesses of one network.

    Parameters
        module      inputs (B, *F) to outputs (B, M), in its own precision.
        shape, dtype, device    what it is fed with.
        path        the ONNX file that it was read from, to be replayed by onnxruntime where that is installed.

    A point breaks a query where it lies between the limits, and its outputs lie in an unsafe set in each measurement:
    of the network as it runs, of a float64 copy, and of onnxruntime; nothing is allowed for rounding.

    >>> network = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(network.weight)
    >>> below = Unsafe(rows=torch.ones(1, 1).double(), limits=torch.tensor([-1.5]).double())
    >>> query = Query(low=-torch.ones(2).double(), high=torch.ones(2).double(), unsafe=(below,))
    >>> found = Falsifier(module=network, shape=(2,), dtype=torch.float32, device=torch.device("cpu")).search(query)
    >>> bool(found.outputs <= -1.5), found.replayed
    (True, ('float64',))
    """

    module: nn.Module
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    path: Path | None = None

    def __post_init__(self) -> None:
        self.double = _doubled(self.module, self.shape, self.device)
        self.session = None if self.path is None else _session(self.path)

    def search(self, query: Query, expired: Callable[[], bool] = lambda: False) -> Witness | None:
        """Descend towards the nearest unsafe sets from the middle of the box and from random points of it."""
        low, high = query.low.to(self.device), query.high.to(self.device)
        middle = (low + (high - low) / 2).unsqueeze(0)
        if (found := self.confirm(query, middle)) is not None:
            return found
        with torch.no_grad():
            outputs = self._outputs(middle).double()
        distances = torch.cat([one.margins(outputs.cpu()) for one in query.unsafe])
        nearest = [query.unsafe[place] for place in distances.nan_to_num(math.inf).argsort()[:SETS].tolist()]
        generator = torch.Generator().manual_seed(0)
        draws = torch.rand(STARTS * len(nearest), len(low), generator=generator, dtype=torch.float64).to(self.device)
        points = low + draws * (high - low)
        points[::STARTS] = middle
        rows = [one for one in nearest for _ in range(STARTS)]
        for step in range(STEPS):
            if expired():
                return None
            try:
                margins, gradient = self._slopes(points, rows)
            except RuntimeError:  # no gradient reaches the inputs
                return None
            broken = (margins <= 0).nonzero()[:, 0]
            if len(broken) and (found := self.confirm(query, points[broken])) is not None:
                return found
            points = points - gradient.sign() * (high - low) * 0.5 * DECAY**step
            points = torch.minimum(torch.maximum(points, low), high)
        return self.confirm(query, points)

    def _slopes(self, points: Tensor, rows: list[Unsafe]) -> tuple[Tensor, Tensor]:
        """How far each point (P, N) is from its own set, and where that grows."""
        with torch.enable_grad():
            here = points.clone().requires_grad_(True)
            outputs = self._outputs(here).double()
            margins = torch.cat(
                [
                    Unsafe(rows=one.rows.to(self.device), limits=one.limits.to(self.device)).margins(out)
                    for one, out in zip(rows, outputs.split(1), strict=True)
                ]
            )
            (gradient,) = torch.autograd.grad(margins[margins.isfinite()].sum(), here)
        return margins.detach(), gradient.nan_to_num(0.0)

    def confirm(self, query: Query, points: Tensor) -> Witness | None:
        """Measure points (P, N) again, the most broken first, and return the first that breaks the query."""
        low, high = query.low.to(self.device), query.high.to(self.device)
        points = torch.minimum(torch.maximum(points.detach().double(), low), high)
        stored = points.to(self.dtype).double()  # what the network is given, where that lies in the box too
        points = torch.where((stored >= low) & (stored <= high), stored, points)
        with torch.no_grad():
            outputs = self._outputs(points).double().cpu()
            margins = query.margins(outputs)
            broken = (margins <= 0).nonzero()[:, 0]
            for place in broken[margins[broken].argsort()][:8].tolist():
                point, seen = points[place : place + 1], outputs[place : place + 1]
                if (replayed := self._again(query, point)) is not None:
                    return Witness(inputs=point[0].cpu(), outputs=seen[0], replayed=replayed)
        return None

    def _again(self, query: Query, point: Tensor) -> tuple[str, ...] | None:
        """Where else a point breaks the query; None where it does not."""
        replayed = []
        if self.double is not None and self.dtype != torch.float64:
            outputs = self.double(point.reshape(-1, *self.shape)).double().cpu().reshape(1, -1)
            if not bool(query.margins(outputs) <= 0):
                return None
            replayed.append("float64")
        if self.session is not None:
            outputs = _run(self.session, point.cpu(), self.dtype)
            if not bool(query.margins(outputs) <= 0):
                return None
            replayed.append("onnxruntime")
        return tuple(replayed)

    def _outputs(self, points: Tensor) -> Tensor:
        found: Tensor = self.module(points.reshape(-1, *self.shape).to(self.dtype))
        return found


def _doubled(module: nn.Module, shape: tuple[int, ...], device: torch.device) -> nn.Module | None:
    """A copy in float64, None where none can be made or asked."""
    try:
        with torch.no_grad():
            copied = copy.deepcopy(module).double()
            for part in copied.modules():
                if isinstance(part, Model):
                    part._fed = torch.float64
            copied(torch.zeros(1, *shape, dtype=torch.float64, device=device))
    except Exception:  # whatever a module raises
        return None
    return copied


def _session(path: Path) -> Any:
    """The file in onnxruntime, None where that is not installed or does not read it."""
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        given: Any = str(path)
        if packed:
            with unpacked(path) as stream:
                given = stream.read()
        return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    except Exception:  # a missing package, or an operator that it does not know
        return None


def _run(session: Any, point: Tensor, dtype: torch.dtype) -> Tensor:
    """What onnxruntime answers to one point (1, N): (1, M) float64."""
    given = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else 1 for size in given.shape]
    (outputs, *_) = session.run(None, {given.name: point.to(dtype).reshape(shape).numpy()})
    return torch.from_numpy(outputs).double().reshape(1, -1)
