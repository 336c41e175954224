"""Translate an exported program, node by node, into operations; refuse by name what has no proof."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from trustbound.certificates.graph import moved_batch
from trustbound.certificates.graph.data_movement import MOVES, move
from trustbound.certificates.graph.gathering import Cast
from trustbound.certificates.graph.hidden_state import refuse_state
from trustbound.certificates.graph.layer_rules import NOTHING, TABLE
from trustbound.certificates.graph.node_index import Count, MovedBatch, NodeIndex, depends, holds
from trustbound.certificates.graph.operations import Input, Operation
from trustbound.errors import UnsupportedError

SUPPORTED = (
    "linear, convolution and its transpose, batch, layer, group and root mean square norm, ReLU, leaky ReLU, sigmoid, "
    "tanh, softplus, ELU, SiLU, GELU, hard sigmoid and swish, sine, cosine, abs, clamp, maximum, average and max pool, "
    "mean, sum, slices, reshape, addition, products, squares, softmax, attention and a last log-softmax"
)
#: Precisions in which a step may be computed.
PRECISIONS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
#: Operations whose sizes may name the batch axis.
SIZED = {"view", "reshape", "_unsafe_view", "unflatten", "expand", "repeat"}
#: Constants made from a size.
FACTORIES = {"zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like"}
FACTORIES |= {"new_zeros", "new_ones", "new_full", "new_empty", "zero"}
#: Operations on constants whose result holds the same numbers in every precision.
UNROUNDED = MOVES - {"fill", "masked_fill", "where", "copy"} | {"zeros", "ones", "zeros_like", "ones_like", "empty"}
UNROUNDED |= {"new_zeros", "new_ones", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "permute", "t"}
UNROUNDED |= {"transpose", "clone", "detach", "alias", "lift_fresh_copy", "contiguous", "flatten", "unflatten", "cat"}
_COUNTED = "the size of the batch enters what it computes"


class Translator:
    """Walk an exported program; `operations` grows by what each node computes.

    `depth` modules that wrap the user's are cut from paths; `batch` is the symbol of the batch axis, or its size in
    a program that knows no other; `rows` is how many examples it was exported with.

    After `translate`, `values` holds what every node is; `exact` says that constants were read as they are stored
    and nothing was computed from them.
    """

    def __init__(self, depth: int, batch: Any, rows: int, sample: Tensor) -> None:
        self.depth, self.batch, self.rows = depth, batch, rows
        self.device = sample.device
        shape = tuple(sample.shape[1:])
        self.operations: list[Operation] = [Input(sources=(), shape=shape, where="input", dtype=sample.dtype)]
        self.values: dict[fx.Node, Any] = {}
        self.exact = True
        self._node: fx.Node | None = None

    def translate(self, program: torch.export.ExportedProgram) -> list[Operation]:
        """Return the operations of the program, the input first and the output last."""
        signature = program.graph_signature
        stored = {**program.state_dict, **program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            self._node = node
            if node.op == "placeholder":
                own = names.get(node.name)
                if own is None and node.name not in signature.user_inputs[:1]:
                    raise self.refusal("something that is neither a tensor nor the input")
                constant = NodeIndex(0) if own is None else stored[own]
                self.values[node] = constant.detach() if isinstance(constant, Tensor) else constant
            elif node.op == "get_attr":
                self.values[node] = getattr(program.graph_module, str(node.target))
            elif node.op == "output":
                refuse_state(program, self.values, node, self.depth)
                kept = [
                    given
                    for given, said in zip(node.args[0], signature.output_specs, strict=True)
                    if said.kind.name == "USER_OUTPUT"
                ]
                return self._finish([self.values[given] if isinstance(given, fx.Node) else given for given in kept])
            else:
                self.values[node] = self._call(node)
        raise self.refusal("an exported program without an output")

    def add(self, kind: Callable[..., Operation], *sources: int, shape: Any = None, **constants: Any) -> NodeIndex:
        """Append a step; shape and dtype are those recorded at the current node unless they are given."""
        constants.setdefault("dtype", self.dtype)
        self.operations.append(
            kind(sources=sources, shape=self.shape if shape is None else shape, where=self.where, **constants)
        )
        return NodeIndex(len(self.operations) - 1)

    def cast(self, index: NodeIndex) -> NodeIndex:
        """Append the change to the current node's precision, if the place has another."""
        before, dtype = self.operations[index], self.dtype
        if before.dtype == dtype:
            return index
        self.operations.append(Cast.of(index, before.shape, self.where, before.dtype, dtype))
        return NodeIndex(len(self.operations) - 1)

    @property
    def target(self) -> Any:
        """The current node's operation."""
        assert self._node is not None
        return self._node.target

    @property
    def value(self) -> Any:
        """What was recorded of the current node's value, of the first where there are several."""
        assert self._node is not None
        value = self._node.meta.get("val")
        return value[0] if isinstance(value, tuple | list) else value

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the current node's value."""
        dtype: torch.dtype = self.value.dtype
        if dtype not in PRECISIONS:
            raise self.refusal(f"values of {dtype}")
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The features of the current node's value, whose leading axis must be the batch."""
        shape = tuple(self.value.shape)
        if len(shape) == 1 and self._is_batch(shape[0]):
            raise self.refusal("one number for each example, without a features' axis; keep the axis (x[:, :1])")
        if len(shape) < 2 or not self._is_batch(shape[0]) or any(isinstance(size, torch.SymInt) for size in shape[1:]):
            raise self.refusal(f"a value of shape {shape} that loses the batch axis")
        return tuple(int(size) for size in shape[1:])

    @property
    def sizes(self) -> list[int]:
        """The sizes of the current node's value as it was recorded, with as many examples as it was exported with."""
        sizes = self.value.shape
        return [int(size.node.hint) if isinstance(size, torch.SymInt) else int(size) for size in sizes]

    @property
    def batched(self) -> bool:
        """Whether the first axis of the current node's value is the batch's."""
        shape = self.value.shape
        return len(shape) == 0 or self._is_batch(shape[0])

    def _is_batch(self, size: Any) -> bool:
        """Say whether a size is that of the batch axis, without asking it for a number."""
        return bool((size.node.expr if isinstance(size, torch.SymInt) else size) == self.batch)

    @property
    def where(self) -> str:
        """The module that the current node belongs to, and its class or the operation's name."""
        assert self._node is not None
        stack = list((self._node.meta.get("nn_module_stack") or {}).values())
        parts = str(stack[-1][0]).removeprefix("L['self']").lstrip(".").split(".")[self.depth :] if stack else []
        path = ".".join(parts)
        kind = stack[-1][1] if path else ""
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

    def extent(self, index: int) -> tuple[int, ...]:
        """The features of an earlier step."""
        return self.operations[index].shape

    def constant(self, value: Any, shape: tuple[int, ...]) -> Tensor:
        """Return a constant as a float64 tensor that broadcasts to `shape`, without a batch axis."""
        # A Python number stays the double that it is; the module may round it to its own precision, which is one
        # rounding of one constant, unless it cannot hold it at all.
        kept = value.dtype if isinstance(value, Tensor) else torch.float64
        found = torch.as_tensor(value, dtype=kept, device=self.device).double()
        gap = (found.to(self.dtype).double() - found).abs()
        if not bool(((gap <= torch.finfo(self.dtype).eps * found.abs()) | ~found.isfinite()).all()):
            raise self.refusal(f"a constant that {self.dtype} cannot hold")
        if found.ndim == len(shape) + 1 and found.shape[0] in (1, self.rows):
            if not bool(((found == found[:1]) | found.isnan()).all()):
                raise self.refusal("a constant that differs between the examples of a batch")
            found = found[0]
        if found.ndim > len(shape):
            raise self.refusal(f"a constant of shape {tuple(found.shape)} against features {shape}")
        return found

    def _operation(self) -> str:
        """The current operation's name, such as `gelu`."""
        assert self._node is not None
        target = self._node.target
        name = target._schema.name if isinstance(target, torch._ops.OpOverload) else str(target)
        return str(name).rsplit("::", 1)[-1].rstrip("_") if "::" in str(name) else str(name)

    def _call(self, node: fx.Node) -> Any:
        """Return what a node computes: a place in the list, or a constant where nothing depends on the input."""
        args: Any
        kwargs: Any
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda given: self.values[given])
        target: Any = node.target
        name = self._operation()
        if name in NOTHING:
            return None
        if target is operator.getitem:
            return args[0][args[1]]
        known = isinstance(target, torch._ops.OpOverload)
        if known and torch.Tag.nondeterministic_seeded in target.tags and name not in TABLE:
            raise self.refusal("a random number")
        if known and target._schema.is_mutable:
            raise self.refusal("a value changed in place that could not be rewritten")
        if not depends((args, kwargs)):
            return self._constant(target, name, args, kwargs)
        if not known:
            raise self.refusal()
        if name == "sym_size":
            return self._size(node)
        named = {argument.name: argument.default_value for argument in target._schema.arguments}
        named.update(zip(named, args, strict=False))
        named.update(kwargs)
        if name not in SIZED | FACTORIES and holds(named, Count):
            raise self.refusal(_COUNTED)
        try:
            if holds(named, MovedBatch):
                if name not in moved_batch.RULES:
                    raise self.refusal("the batch axis is moved")
                found = moved_batch.RULES[name](self, named)
            elif name in FACTORIES:
                self._sizes(args, kwargs)
                like = torch.empty((self.rows, *self.extent(named["self"])), dtype=self.dtype, device=self.device)
                return blank(name, target(like, *args[1:], **kwargs))
            elif name in MOVES:
                found = move(self, target, named)
            elif name in TABLE:
                found = TABLE[name](self, named)
            else:
                raise self.refusal()
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError) as error:
            if isinstance(error, UnsupportedError):
                raise
            raise self.refusal(f"an unknown form of this operation ({str(error).splitlines()[0]})") from error
        self._check(found)
        return found

    def _constant(self, target: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Compute what does not depend on the input, in the precision in which the module does."""
        numbers = isinstance(target, torch._ops.OpOverload)
        if not numbers and not (holds((args, kwargs), Count) and getattr(target, "__module__", "") == "_operator"):
            raise self.refusal()
        if numbers and name in FACTORIES:
            self._sizes(args, kwargs)
        elif numbers and name not in SIZED and holds((args, kwargs), Count):
            raise self.refusal(_COUNTED)
        try:
            found = target(*args, **kwargs)
        except (RuntimeError, TypeError, ValueError, LookupError) as error:  # the trace notes what raised, too
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise self.refusal(f"an operation on constants that raises ({reason})") from error
        if not numbers:
            return Count(found)
        floating = isinstance(found, Tensor) and found.is_floating_point() and found.numel() > 0
        self.exact &= name in UNROUNDED or not floating or isinstance(self.value, torch.SymFloat)
        return blank(name, found)

    def _sizes(self, args: Any, kwargs: Any) -> None:
        """Refuse counts but at the head of a size: it may begin with the batch axis, no number may hold its length."""
        others = [given[1:] if isinstance(given, list | tuple) else given for given in args]
        if holds((others, kwargs), Count):
            raise self.refusal(_COUNTED)

    def _size(self, node: fx.Node) -> int:
        """Return a size of a value that depends on the input: that of its batch axis is a count."""
        size = node.meta["val"]
        if not isinstance(size, torch.SymInt):
            return int(size)
        if not self._is_batch(size):
            raise self.refusal(f"a size {size} that is not the batch's")
        return Count(self.rows)

    def _check(self, found: Any) -> None:
        """Refuse a step whose shape or precision is not what was recorded of the node."""
        assert self._node is not None
        value: Any = self._node.meta.get("val")
        pairs: Any = zip(found, value, strict=False) if isinstance(found, tuple | list) else [(found, value)]
        for index, said in pairs:
            if isinstance(index, MovedBatch) and not self._fits(index, said.shape):
                raise self.refusal(f"a value {tuple(said.shape)} whose batch axis is lost")
            if not isinstance(index, NodeIndex):
                continue
            step = self.operations[index]
            if step.dtype != said.dtype or step.shape != tuple(said.shape[1:]) or not self._is_batch(said.shape[0]):
                raise self.refusal(f"a value {said.dtype} {tuple(said.shape)} read as {step.dtype} {step.shape}")

    def _fits(self, value: MovedBatch, shape: Any) -> bool:
        """Say whether axes have the sizes that were recorded, for whatever number of examples."""
        told = [math.prod(self.batch if side == 0 else side for side in group) for group in value.groups]
        found = [size.node.expr if isinstance(size, torch.SymInt) else size for size in shape]
        return len(told) == len(found) and all(bool(one == other) for one, other in zip(told, found, strict=True))

    def _finish(self, outputs: Any) -> list[Operation]:
        """Cut the list at the output, which must be one value that depends on the input."""
        if isinstance(outputs, tuple | list) and len(outputs) == 1:
            outputs = outputs[0]
        if isinstance(outputs, MovedBatch):
            raise UnsupportedError("no proof: outputs whose batch axis is not the first; transpose them back")
        if not isinstance(outputs, NodeIndex):
            raise UnsupportedError(
                "certificates need a model that returns one tensor of logits (B, C) computed from its inputs; "
                f"got {type(outputs).__name__}. Pass output=… to wrap to choose it."
            )
        needed, order = {int(outputs)}, sorted(range(int(outputs) + 1), reverse=True)
        for index in order:
            if index in needed:
                needed.update(self.operations[index].sources)
        for index in needed:
            if not self.operations[index].shape:
                raise UnsupportedError(
                    f"no proof: {self.operations[index].where}: one number for each example, without a features' axis; "
                    "keep the axis (x[:, :1] for x[:, 0])"
                )
        if 0 not in needed:
            raise UnsupportedError("certificates need logits that depend on the inputs")
        return _renumber(self.operations, sorted(needed))


def blank(name: str, found: Any) -> Any:
    """Mark memory that nobody has written: whatever is made of it is not a number."""
    if name.removeprefix("new_").startswith("empty") and isinstance(found, Tensor) and found.is_floating_point():
        return torch.full_like(found, float("nan"))
    return found


def _renumber(operations: list[Operation], kept: list[int]) -> list[Operation]:
    """Keep some steps of a list and point their sources to the new places."""
    indices = {index: new for new, index in enumerate(kept)}
    return [
        replace(operations[index], sources=tuple(indices[source] for source in operations[index].sources))
        for index in kept
    ]
