"""A network as one list of operations that proofs can walk forwards and backwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Input, Linear, LogSoftmax, Operation, Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Operations in the order in which they run; the first is the input, the last gives the logits.

    Shapes      inputs (B, *F) to logits (B, C); constants are float64, a run uses the dtype of its inputs.
    Raises      nothing: `reading.read` has already compared it with the module.

    `dtype` is the precision in which the module itself runs: certified points must survive its rounding.
    `cache` holds what a certifier computes once for a network, such as spectral norms. Of a network that gives maps,
    which the list ends in as one long row, `maps` is their shape.

    >>> from trustbound.certificates.graph.reading import read
    >>> graph = read(torch.nn.Linear(4, 3), torch.rand(2, 4))
    >>> [type(operation).__name__ for operation in graph.operations], graph.shape, graph.classes
    (['Input', 'Dense'], (4,), 3)
    """

    operations: tuple[Operation, ...]
    dtype: torch.dtype
    device: torch.device
    cache: dict[str, object] = field(default_factory=dict, repr=False)
    maps: Shape | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Run the list on inputs (B, *F), freeing every value after its last use."""
        last = {source: index for index, step in enumerate(self.operations) for source in step.sources}
        values: dict[int, Tensor] = {}
        for index, step in enumerate(self.operations):
            operands = [inputs] if isinstance(step, Input) else [values[source] for source in step.sources]
            values[index] = step.apply(*operands)
            for source in set(step.sources):
                if last[source] == index:
                    del values[source]
        return values[len(self.operations) - 1]

    def without_rounding(self) -> Graph:
        """Return the same network computed in exact arithmetic: what is proven of it leaves rounding out."""
        kept = self.cache.get("without-rounding")
        if not isinstance(kept, Graph):
            steps = tuple(
                replace(step, dtype=None, parts=()) if isinstance(step, Linear) else replace(step, dtype=None)
                for step in self.operations
            )
            kept = self.cache["without-rounding"] = replace(self, operations=steps, cache={})
        return kept

    def single(self) -> Graph:
        """Return the same network with its constants in float32: for searches, of which no bound is believed."""
        kept = self.cache.get("single")
        if not isinstance(kept, Graph):
            steps = tuple(_single(step) for step in self.without_rounding().operations)
            kept = self.cache["single"] = replace(self, operations=steps, cache={})
        return kept

    @property
    def readers(self) -> list[int]:
        """How many steps read each one."""
        counted = Counter(source for step in self.operations for source in step.sources)
        return [counted[index] for index in range(len(self.operations))]

    @property
    def shape(self) -> Shape:
        """The features (*F) of one input."""
        return self.operations[0].shape

    @property
    def answer(self) -> Shape:
        """The shape of one answer, as the network gives it."""
        return (self.classes,) if self.maps is None else self.maps

    @property
    def classes(self) -> int:
        """How many logits there are."""
        return self.operations[-1].shape[0]

    @property
    def head(self) -> int:
        """The index of the step that gives the logits, before they are normalised."""
        last = self.operations[-1]
        return last.sources[0] if isinstance(last, LogSoftmax) else len(self.operations) - 1

    @property
    def widest(self) -> int:
        """The most numbers one example has at any step."""
        return max(step.features for step in self.operations)


def _single(step: Operation) -> Operation:
    """Return a step with its floating-point constants in float32."""
    held = {part.name: getattr(step, part.name) for part in fields(step) if part.init}
    wide = {name: value for name, value in held.items() if isinstance(value, Tensor) and value.is_floating_point()}
    narrow: dict[str, Any] = {name: value.float() for name, value in wide.items()}
    return replace(step, **narrow)
