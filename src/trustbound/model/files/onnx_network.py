"""A network of an ONNX file: its nodes as torch operations, in the order of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Call:
    """What an operator is told beside its operands.

    Parameters
        attributes  of the node, as plain Python values.
        opset       the version of the operators that the file names.
        shapes      those of the operands when the network runs on one example as the file has it; () of constants.
        batch       how many examples there are.
        dtype       of the first operand in the file.
    """

    attributes: dict[str, Any]
    opset: int
    shapes: tuple[Shape, ...]
    dtype: torch.dtype
    batch: int = 1

    def attribute(self, name: str, otherwise: Any = None) -> Any:
        """One of the node's attributes."""
        return self.attributes.get(name, otherwise)

    @property
    def shape(self) -> Shape:
        """The shape of the first operand for one example."""
        return self.shapes[0]

    def axis(self, number: int) -> int:
        """An axis of the first operand, counted from the front."""
        return number % max(1, len(self.shape))


class Step(nn.Module):
    """One node: an operator, its constants, and the names of the values that it reads and writes.

    `places` says for each operand where it is: a name in the network, a number or list that the file holds, None where
    it is left out, or `Held(i)` for the tensor `operand{i}` of this module.
    """

    def __init__(
        self, operator: Callable[..., Any], call: Call, places: Sequence[Any], writes: Sequence[str], where: str
    ) -> None:
        super().__init__()
        self.operator, self.call, self.places, self.writes, self.where = operator, call, places, tuple(writes), where
        self.done: tuple[str, ...] = ()  # values that nobody reads any more after this node

    def forward(self, values: dict[str, Tensor], batch: int) -> list[Tensor]:
        """Compute what the node writes from the values so far."""
        operands = [self._operand(place, values) for place in self.places]
        call = self.call if batch == 1 else Call(**{**vars(self.call), "batch": batch})
        found = self.operator(call, *operands)
        return list(found) if isinstance(found, tuple | list) else [found]

    def _operand(self, place: Any, values: dict[str, Tensor]) -> Any:
        if isinstance(place, Held):
            return getattr(self, f"operand{place.number}")
        return values[place] if isinstance(place, str) else place


@dataclass(frozen=True)
class Held:
    """An operand that is a tensor of the step itself."""

    number: int


class OnnxNetwork(nn.Module):
    """What an ONNX file computes, for batches (B, *F) of its inputs.

    Parameters
        shape       of the input as the file has it, for one example: (1, *F), or (F,) where it names no batch.
        beside      other files that its weights were read from.
        looped      examples are run one after another, because the file's nodes do not treat them apart.

    >>> network = OnnxNetwork("x", (1, 2), ["y"])
    >>> network.append("twice", Step(lambda call, x: 2 * x, Call(attributes={}, opset=17, shapes=((1, 2),),
    ...     dtype=torch.float32), ["x"], ["y"], "twice"))
    >>> network(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """

    def __init__(self, name: str, shape: Shape, outputs: Sequence[str]) -> None:
        super().__init__()
        self.name, self.shape, self.outputs = name, shape, tuple(outputs)
        self.looped = False
        self.order: list[str] = []
        self.classes: int | None = None
        self.beside: tuple[Path, ...] = ()

    @property
    def features(self) -> Shape:
        """The shape (*F) of one input."""
        return self.shape if len(self.shape) == 1 else self.shape[1:]

    def append(self, name: str, step: Step) -> None:
        """Add a node at the end, under a name that no other has."""
        self.add_module(name, step)
        self.order.append(name)

    def forward(self, inputs: Tensor) -> Any:
        """Outputs (B, *O) of inputs (B, *F); a tuple where the file has several."""
        if not self.looped:
            found = self._run(inputs, inputs.shape[0])
        else:
            some = inputs if inputs.shape[0] else inputs.new_zeros(1, *inputs.shape[1:])
            rows = [self._run(row.reshape(self.shape), 1) for row in some]
            found = [torch.cat([self._of_one(value) for value in parts]) for parts in zip(*rows, strict=True)]
            found = found if inputs.shape[0] else [value[:0] for value in found]
        return found[0] if len(found) == 1 else tuple(found)

    def _run(self, inputs: Tensor, batch: int) -> list[Tensor]:
        values = {self.name: inputs}
        for name in self.order:
            step = self.get_submodule(name)
            assert isinstance(step, Step)
            for written, value in zip(step.writes, step(values, batch), strict=False):
                values[written] = value
            for finished in step.done:
                values.pop(finished, None)
        return [values[name] for name in self.outputs]

    @staticmethod
    def _of_one(value: Tensor) -> Tensor:
        """One example's output with an axis for the batch in front."""
        return value if value.ndim > 1 and value.shape[0] == 1 else value.unsqueeze(0)
