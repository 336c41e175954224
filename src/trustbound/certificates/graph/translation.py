"""Translate an exported program, node by node, into operations; refuse by name what has no proof."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from trustbound.certificates.graph.layers import NOTHING, TABLE
from trustbound.certificates.graph.operations import Input, Operation
from trustbound.certificates.graph.places import Place, depends
from trustbound.errors import UnsupportedError

SUPPORTED = (
    "linear, convolution, batch norm in eval, ReLU, leaky ReLU, clamp, average and max pool, "
    "mean, reshape, addition and constant scaling"
)


class Translator:
    """Walk an exported program; `operations` grows by what each node computes.

    `prefix` is cut from module paths; `sample` (B, *F) is what the program was exported with: its batch size
    tells the batch axis in the shapes that the program recorded; `dtype` is the precision of every step.
    """

    def __init__(self, prefix: str, sample: Tensor, dtype: torch.dtype) -> None:
        self.prefix = prefix
        self.dtype = dtype
        self.batch = len(sample)
        self.device = sample.device
        self.operations: list[Operation] = [
            Input(sources=(), shape=tuple(sample.shape[1:]), where="input", dtype=dtype)
        ]
        self._node: fx.Node | None = None

    def translate(self, program: torch.export.ExportedProgram) -> list[Operation]:
        """Return the operations of the program, the input first and the output last."""
        signature, values = program.graph_signature, dict[fx.Node, Any]()
        stored = {**program.state_dict, **program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            self._node = node
            if node.op == "placeholder":
                constant = stored[names[node.name]] if node.name in names else Place(0)
                values[node] = constant.detach() if isinstance(constant, Tensor) else constant
            elif node.op == "get_attr":
                values[node] = getattr(program.graph_module, str(node.target))
            elif node.op == "output":
                outputs = fx.node.map_arg(node.args[0], lambda given: values[given])
                return self._finish(outputs)
            else:
                values[node] = self._call(node, values)
        raise self.refusal("an exported program without an output")

    def add(self, kind: Callable[..., Operation], *sources: int, shape: Any = None, **numbers: Any) -> Place:
        """Append a step; its shape is the one recorded at the current node unless it is given."""
        self.operations.append(
            kind(sources=sources, shape=shape or self.shape, where=self.where, dtype=self.dtype, **numbers)
        )
        return Place(len(self.operations) - 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The features of the current node's value, whose leading axis must be the batch."""
        assert self._node is not None
        shape = tuple(int(size) for size in self._node.meta["val"].shape)
        if len(shape) < 2 or shape[0] != self.batch:
            raise self.refusal(f"a value of shape {shape} that loses the batch axis")
        return shape[1:]

    @property
    def where(self) -> str:
        """The module that the current node belongs to, and its class or the operation's name."""
        assert self._node is not None
        stack = list((self._node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        path = path.removeprefix("L['self']").lstrip(".").removeprefix(self.prefix)
        kind = stack[-1][1] if len(stack) > 1 else ""
        kind = (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]
        known = kind and hasattr(torch.nn, kind)
        return f"{path or 'forward'} ({kind if known else self._operation()})"

    def refusal(self, reason: str = "") -> UnsupportedError:
        """Name the place that has no proof, and say what to do."""
        detail = f": {reason}" if reason else ""
        return UnsupportedError(
            f"no proof: {self.where}{detail}. Certificates read {SUPPORTED}; "
            "replace the layer, or audit without a proof."
        )

    def extent(self, place: int) -> tuple[int, ...]:
        """The features of an earlier step."""
        return self.operations[place].shape

    def constant(self, value: Any, shape: tuple[int, ...]) -> Tensor:
        """Return a constant as a float64 tensor that broadcasts to `shape`, without a batch axis."""
        # A Python number is exact in float64; a tensor was made in its own precision.
        kept = value.dtype if isinstance(value, Tensor) else torch.float64
        found = torch.as_tensor(value, dtype=kept, device=self.device).double()
        if found.ndim == len(shape) + 1 and found.shape[0] == 1:
            found = found.squeeze(0)
        if found.ndim > len(shape):
            raise self.refusal(f"a constant of shape {tuple(found.shape)} against features {shape}")
        return found

    def _operation(self) -> str:
        """The current operation's name, such as `gelu`."""
        assert self._node is not None
        target = self._node.target
        name = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
        return str(name).rsplit("::", 1)[-1].rstrip("_") if "::" in str(name) else str(name)

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Return what a node computes: a place in the list, or a constant where nothing depends on the input."""
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: values[given])
        target: Any = node.target
        if not depends((args, kwargs)):
            random = isinstance(target, torch._ops.OpOverload) and (torch.Tag.nondeterministic_seeded in target.tags)
            if random or not (isinstance(target, torch._ops.OpOverload) or target is operator.getitem):
                raise self.refusal("a random number" if random else "")
            return target(*args, **kwargs)
        if target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(target, torch._ops.OpOverload):
            raise self.refusal()
        name = self._operation()
        if name in NOTHING:
            return None
        translate = TABLE.get(name)
        if translate is None:
            raise self.refusal()
        schema = target._schema
        named = {argument.name: argument.default_value for argument in schema.arguments}
        named.update(zip(named, args, strict=False))
        named.update(kwargs)
        found = translate(self, named)
        if schema.name.endswith("_") and isinstance(node.args[0], fx.Node):
            values[node.args[0]] = found  # in place: later readers of the operand see the new value
        return found

    def _finish(self, outputs: Any) -> list[Operation]:
        """Cut the list at the output, which must be one value that depends on the input."""
        if isinstance(outputs, tuple | list) and len(outputs) == 1:
            outputs = outputs[0]
        if not isinstance(outputs, Place):
            raise UnsupportedError(
                "certificates need a model that returns one tensor of logits (B, C) computed from its inputs; "
                f"got {type(outputs).__name__}. Pass output=… to wrap to choose it."
            )
        needed, order = {int(outputs)}, sorted(range(int(outputs) + 1), reverse=True)
        for place in order:
            if place in needed:
                needed.update(self.operations[place].sources)
        if 0 not in needed:
            raise UnsupportedError("certificates need logits that depend on the inputs")
        return _renumber(self.operations, sorted(needed))


def _renumber(operations: list[Operation], kept: list[int]) -> list[Operation]:
    """Keep some steps of a list and point their sources to the new places."""
    places = {place: new for new, place in enumerate(kept)}
    return [
        replace(operations[place], sources=tuple(places[source] for source in operations[place].sources))
        for place in kept
    ]
