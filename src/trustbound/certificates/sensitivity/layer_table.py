"""The layer table of a network: what each layer can stretch, and what that comes to along the graph."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trustbound.certificates.graph.gathering import Cast
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.operations import Arrange, Concatenate, Input, Linear, MaxPool, Operation, Sum
from trustbound.certificates.graph.transposed_convolution import TransposedConvolution
from trustbound.certificates.sensitivity.gains import gains, norms, steepness

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class LayerBound:
    """One row of the table.

    name    the layer's path in the module; what was folded into it, as batch norm into a convolution, is in `kind`.
    size    input channels × kernel × output channels, or inputs × outputs; `stride` is None where there is none.
    upper   for each norm, an upper bound of the layer's own Lipschitz constant; None for a layer with several operands.
    gain    for each norm, an upper bound of how much faster than the input what the layer returns can change.
    """

    name: str
    kind: str
    size: tuple[int, ...]
    stride: tuple[int, ...] | None
    upper: Mapping[str, float] | None
    gain: Mapping[str, float]


def layer_table(graph: Graph, kinds: Sequence[str] = ("l2",)) -> tuple[LayerBound, ...]:
    """Return the layers that stretch, shrink or join; those that only move numbers, and ReLUs, are left out.

    Raises      UnsupportedError naming the first layer that has no Lipschitz constant.

    >>> import torch
    >>> from trustbound.certificates.graph import read
    >>> network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> [(row.name, row.kind, row.size) for row in layer_table(read(network, torch.rand(1, 4)))]
    [('0', 'Linear', (4, 3)), ('2', 'Linear', (3, 2))]
    """
    return tuple(_rows(graph, kinds))


def _rows(graph: Graph, kinds: Sequence[str]) -> Iterator[LayerBound]:
    own = {norm: norms(graph, norm) for norm in kinds}
    so_far = {norm: gains(graph, norm) for norm in kinds}
    for index, step in enumerate(graph.operations):
        if isinstance(step, Input | Arrange | Cast):
            continue
        upper: dict[str, float] | None = None
        if not isinstance(step, Sum | Concatenate):
            linear = isinstance(step, Linear)
            upper = {norm: own[norm][index] if linear else steepness(step, norm) for norm in kinds}
            if not isinstance(step, Dense | Convolution | TransposedConvolution | MaxPool) and all(
                bound == 1.0 for bound in upper.values()
            ):
                continue
        name, kind = _named(step)
        yield LayerBound(
            name=name,
            kind=kind,
            size=_size(step),
            stride=step.stride if isinstance(step, Convolution | TransposedConvolution | MaxPool) else None,
            upper=upper,
            gain={norm: so_far[norm][index] for norm in kinds},
        )


def _named(step: Operation) -> tuple[str, str]:
    """Return a step's path and what it is made of."""
    parts = step.parts if isinstance(step, Linear) else ()
    (name, kind), *others = (one.where.removesuffix(")").split(" (", 1) for one in (step, *parts))
    kinds = list(dict.fromkeys([kind, *(other for _, other in others)]))
    if isinstance(step, Convolution | TransposedConvolution) and step.groups > 1 and "Pool" not in kind:
        kinds[0] += f", {step.groups} groups"
    return name, " + ".join(kinds)


def _size(step: Operation) -> tuple[int, ...]:
    if isinstance(step, Dense):
        return tuple(step.weight.shape[::-1])
    if isinstance(step, Convolution):
        return (step.extent[0], *step.weight.shape[2:], step.weight.shape[0])
    if isinstance(step, TransposedConvolution):
        return (step.extent[0], *step.weight.shape[2:], step.shape[0])
    return step.kernel if isinstance(step, MaxPool) else step.shape


def printed(rows: Sequence[LayerBound], kinds: Sequence[str]) -> str:
    """Return the table as text, a column of upper bounds and one of what they come to for each norm."""
    head = ["Layer", "Kind", "Size", "Stride"]
    head += [f"Upper bound, {norm}" for norm in kinds] + [f"Product so far, {norm}" for norm in kinds]
    lines = [head]
    for row in rows:
        stride = "N/A" if row.stride is None else " × ".join(map(str, dict.fromkeys(row.stride)))
        uppers = ["joins" if row.upper is None else rounded_up(row.upper[norm]) for norm in kinds]
        size = " × ".join(map(str, row.size))
        lines.append([row.name, row.kind, size, stride, *uppers, *(rounded_up(row.gain[norm]) for norm in kinds)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def rounded_up(number: float, digits: int = 4) -> str:
    """Return a number with few digits, never below it by more than it was rounded outward.

    >>> rounded_up(3.00001), rounded_up(123456.7), rounded_up(0.5), rounded_up(math.inf)
    ('3.001', '1.235e+05', '0.5', 'inf')
    """
    if not math.isfinite(number) or number == 0:
        return f"{number:g}"
    unit = 10.0 ** (math.floor(math.log10(abs(number))) - digits + 1)
    shown = f"{number:.{digits}g}"
    return shown if float(shown) >= number * (1 - math.copysign(1e-8, number)) else f"{float(shown) + unit:.{digits}g}"


def frame(rows: Sequence[LayerBound], kinds: Sequence[str]) -> DataFrame:
    """Return the table as a pandas DataFrame.

    Raises      MissingDependencyError without pandas.
    """
    from trustbound.errors import MissingDependencyError

    try:
        from pandas import DataFrame
    except ImportError as error:
        raise MissingDependencyError(f"frames need an extra: pip install 'trustbound[frames]' ({error})") from error
    return DataFrame(
        [
            {
                "name": row.name,
                "kind": row.kind,
                "size": row.size,
                "stride": row.stride,
                **{f"upper_{norm}": math.nan if row.upper is None else row.upper[norm] for norm in kinds},
                **{f"gain_{norm}": row.gain[norm] for norm in kinds},
            }
            for row in rows
        ]
    )
