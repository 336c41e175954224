"""Validation: a list of operations is believed only after it was run beside the module that it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.certificates.graph.exporting import BATCH, Exactly
from trustbound.certificates.graph.gathering import Cast, Gather
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Mean
from trustbound.certificates.graph.normalisation import Centre
from trustbound.certificates.graph.operations import Arrange, Concatenate, Input, Linear, Operation, Scale
from trustbound.certificates.graph.products import Product
from trustbound.certificates.graph.recording import Call, Recorder, check_same
from trustbound.certificates.graph.trial_points import trial_points, values
from trustbound.errors import UnsupportedError

#: Relative agreement in float64.
AGREEMENT = 1e-10
#: Unit roundoffs of the coarsest precision, and times the list's own rounding, that a module may be off by.
_ROUNDOFFS, _TIMES = 64, 16
#: Batch sizes at which a module that knows its batch size as a number is run.
_COUNTS = (*range(1, 34), 50, 64, 100, 128, 200, 256)


@dataclass(frozen=True, kw_only=True, eq=False)
class Modules:
    """What a list is compared with: a copy of the module, one in float64 if there is, the caller's own if compiled."""

    own: nn.Module
    double: nn.Module | None = None
    compiled: nn.Module | None = None


def compare(
    graph: Graph,
    operations: Sequence[Operation],
    program: Exactly,
    calls: Sequence[Call],
    modules: Modules,
    shown: Tensor,
    box: Any,
    *,
    strict: bool,
) -> None:
    """Refuse a list that differs anywhere from the program, from the module, or from its float64 copy.

    `operations` are the graph's before any were merged. Three comparisons, each example by example, each relative
    to Σ|w||x| + |b| of the last sums before the logits, so that their scale plays no part:

    - with the exported program run in float64: 1e-10. This finds whatever the translation got wrong.
    - with the module in its own precision: 64 unit roundoffs of the coarsest step, plus 16 times the most that the
      list itself is off at any point when each of its steps is stored in that step's precision.
    - with a float64 copy of the module, where one runs: 1e-10 if the module has one precision, names none itself and
      computes no constants (`strict`), else the tolerance before. These two find what the export does not show.

    Every point alone, and batches of 2 and 5 and the rest together, must agree as well. A NaN differs from
    everything. What the module asks of torch must be what it asked when it was traced, `calls`, however narrow the
    inputs are on which the two differ.

    Raises      UnsupportedError saying what differs, and by how much.
    """
    dtype = graph.operations[0].dtype or torch.float64
    each = 8 if sum(step.features for step in operations) < 2**22 else 3
    with torch.no_grad():
        points, within = trial_points(operations, shown, box, dtype, each)
        held = values(graph.operations, points)
        listed, scale = held[-1], _scale(graph.operations, held)
        if not bool((listed.isfinite().all(1) | ~within).all()):
            raise UnsupportedError("no proof: the model gives NaN or infinite logits inside the box, in float64")
        _differ("its exported program", program(points), listed, AGREEMENT * scale, within | True)
        loose = _tolerance(operations, points, listed, scale, graph.dtype)
        _ask(modules.own, points.to(dtype), calls, bool(program.rows))
        _run(modules.own, points, listed, loose, within, dtype)
        if modules.compiled is not None:
            few = slice(0, min(len(shown), each))
            _run(modules.compiled, points[few], listed[few], loose[few], within[few], dtype)
        if modules.double is not None and _runs(modules.double, points[:2]):
            _run(modules.double, points, listed, AGREEMENT * scale if strict else loose, within | True, torch.float64)


def _ask(module: nn.Module, points: Tensor, calls: Sequence[Call], fixed: bool) -> None:
    """Refuse a module that does not ask of torch what its trace did.

    One that was traced at one size, `fixed`, takes it as a number of Python, and is asked at many.
    """
    for count in (BATCH, 1, 2, 5) if not fixed else _COUNTS:
        rows = torch.arange(count, device=points.device) % len(points)
        with Recorder() as recorder:
            _answered(module, points[rows].clone())
        check_same(calls, recorder.calls, count, sizes=count == BATCH)


def _runs(double: nn.Module, points: Tensor) -> bool:
    """Say whether a float64 copy runs; one that does not says nothing."""
    try:
        double(points.clone())
    except Exception:
        return False
    return True


def _tolerance(
    operations: Sequence[Operation], points: Tensor, listed: Tensor, scale: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return what a module may be off by at each point (N,), where `scale` is summed and `dtype` is the coarsest."""
    stored: list[Tensor] = []
    try:
        for step in operations:
            operands = [points] if isinstance(step, Input) else [stored[source] for source in step.sources]
            stored.append(step.apply(*(operand.to(step.dtype) for operand in operands)).to(step.dtype))
        off = (stored[-1].double() - listed).abs().amax(1) / scale
        worst = float(off[off.isfinite()].max()) if bool(off.isfinite().any()) else 0.0
    except RuntimeError:
        worst = 0.0  # a kernel that this machine lacks in that precision; then the module lacks it too
    share = max(AGREEMENT, _ROUNDOFFS * torch.finfo(dtype).eps / 2 + _TIMES * worst)
    return share * scale


def _run(
    module: nn.Module, points: Tensor, listed: Tensor, allowed: Tensor, compared: Tensor, dtype: torch.dtype
) -> None:
    """Compare every point alone, and then in batches of 2, 5 and all that remain; the first points are data."""
    sizes = [size for size in (2, 5) if size < len(points) // 4]
    indices = torch.arange(len(points), device=points.device)
    for rows in (*indices.split(1), *indices.split([*sizes, len(points) - sum(sizes)])):
        found = _answered(module, points[rows].to(dtype, copy=True))
        wanted = listed[rows]
        if not isinstance(found, Tensor) or found.shape != wanted.shape:
            came = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise UnsupportedError(
                f"no proof: the model maps a batch of {len(rows)} to {came}, the list of its operations to "
                f"{tuple(wanted.shape)}; it must treat every example alike"
            )
        name = f"the model in {str(dtype).removeprefix('torch.')}"
        _differ(name, found.double(), wanted, allowed[rows], compared[rows])


def _answered(module: nn.Module, inputs: Tensor) -> Any:
    """Return what a module makes of inputs (B, *F); one that raises has no proof."""
    try:
        return module(inputs)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedError(f"no proof: the model does not run on a batch of {len(inputs)}: {reason}") from error


def _differ(what: str, found: Tensor, listed: Tensor, allowed: Tensor, compared: Tensor) -> None:
    """Refuse where the two are farther apart than allowed, or not to be compared at all: NaN, infinity.

    Where `compared` is False, outside the box, a precision may overflow without saying anything.
    """
    overflow = ~found.isfinite().all(1)
    if bool((overflow & compared & listed.isfinite().all(1)).any()):
        raise UnsupportedError(
            f"no proof: {what} gives NaN or infinite logits where the list of its operations does not. "
            "Certify it in a precision that holds its values."
        )
    gap = (found - listed).abs().amax(1)
    agree = (gap <= allowed) | (overflow & ~compared)
    if not bool(agree.all()):
        row = int((~agree).nonzero()[0])
        raise UnsupportedError(
            f"no proof: the list of operations differs from {what} by {float(gap[row]):.1e} on a batch of "
            f"{len(found)}, where {float(allowed[row]):.1e} is allowed; the model does something that its exported "
            "graph does not show (chance, state, lower precision or dependence between examples)"
        )


def _sizes(operations: Sequence[Operation], held: Sequence[Tensor]) -> list[Tensor]:
    """Return the magnitudes of every step's values, of what is centred and divided by its spread before it cancelled.

    Equal numbers less their mean are 0 but for what that rounds, which is then divided by next to nothing.
    """
    sizes, cancelled = [value.abs() for value in held], set[int]()
    for index, step in enumerate(operations):
        given = [sizes[source] for source in step.sources]
        if isinstance(step, Centre):
            sizes[index] = step.summed(*given)
        elif not cancelled.isdisjoint(step.sources) and isinstance(step, Product):
            sizes[index] = step.apply(*given)
        elif not cancelled.isdisjoint(step.sources) and isinstance(step, Scale | Mean | Arrange | Concatenate | Gather):
            sizes[index] = step.summed(*given)
        else:
            continue
        cancelled.add(index)
    return sizes


def _scale(operations: Sequence[Operation], held: Sequence[Tensor]) -> Tensor:
    """Return the largest of what the last sums before the logits add up, for each point (N,)."""
    sizes = _sizes(operations, held)
    scale = torch.zeros(len(held[0]), dtype=torch.float64, device=held[0].device)
    waiting = [len(operations) - 1]
    while waiting:
        step = operations[index := waiting.pop()]
        moves = isinstance(step, Arrange | Concatenate | Gather | Cast)
        if isinstance(step, Linear) and not moves:
            summed = step.summed(*(sizes[source] for source in step.sources))
        else:
            summed = sizes[index]
            waiting += step.sources
        scale = torch.maximum(scale, summed.flatten(1).amax(1))
    return scale
