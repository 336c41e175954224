"""Make a module of a file's nodes: fold what is constant, and see on a trial that examples do not mix."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trustbound.errors import UnsupportedError
from trustbound.model.files.onnx_network import Call, Held, OnnxNetwork, Step
from trustbound.model.files.onnx_operators import NUMBERS, OPERATORS, TENSORS
from trustbound.model.files.onnx_reading import Array, OnnxFile, onnx_package, open_file, precisions

#: Examples of the trial.
TRIED = 3
#: How far an example may come out differently in a batch, in parts of the largest number.
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}

_IGNORED = {"", "ai.onnx"}


def load_onnx(path: Path, **others: Any) -> OnnxNetwork:
    """Read a file and make a module of it; what is said of other kinds of files has no meaning here."""
    file = open_file(path)
    network = build(file)
    network.beside = file.beside
    return network


def build(file: OnnxFile) -> OnnxNetwork:
    """Make a module of the nodes.

    Every node is run on random examples as it is made: one by one, as the file has it, and all together. Where each
    node gives each example the same both ways the module takes batches; else it runs examples one after another.

    Raises      UnsupportedError naming the first node that is not read.
    """
    network = OnnxNetwork(file.name, file.shape, file.outputs)
    trial = _Trial(file)
    names = _names(file)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (node, name) in enumerate(zip(file.nodes, names, strict=True)):
            step = trial.step(node)
            if step is not None:
                step.done = trial.finished(number)
                network.append(name, step)
    for output in file.outputs:
        if output in trial.constants or output not in trial.alone[0]:
            raise UnsupportedError(f"{file.path}: the output {output!r} does not depend on the input")
    network.looped = trial.together is None or not all(trial.leads(output) for output in file.outputs)
    shape = trial.alone[0][file.outputs[0]].shape
    network.classes = int(shape[1]) if len(shape) == 2 and shape[0] == 1 else None
    return network.eval()


class _Trial:
    """The nodes so far, run on a few examples: `alone`, one by one, and `together`, None where that differs."""

    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.constants: dict[str, Array] = dict(file.constants)
        self.held: dict[str, Tensor] = {}
        generator = torch.Generator().manual_seed(0)
        shape = file.shape if len(file.shape) == 1 else file.shape[1:]
        inputs = torch.rand(TRIED, *shape, generator=generator).to(file.dtype)
        inputs[1:] = (3 * torch.randn(TRIED - 1, *shape, generator=generator)).to(file.dtype)
        self.alone = [{file.name: one.reshape(file.shape)} for one in inputs]
        self.together: dict[str, Tensor] | None = {file.name: inputs}
        self.last = {name: number for number, node in enumerate(file.nodes) for name in node.input}

    def finished(self, number: int) -> tuple[str, ...]:
        """Forget the values that no later node reads, and return their names."""
        done = tuple(
            name for name in self.alone[0] if self.last.get(name, -1) <= number and name not in self.file.outputs
        )
        for values in (*self.alone, *([] if self.together is None else [self.together])):
            for name in done:
                values.pop(name, None)
        return done

    def step(self, node: Any) -> Step | None:
        """Make a node a step and run it; None where it is constant."""
        where = _where(node)
        reads = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size") and reads[0] in self.alone[0]:
            self._shape(node)
            return None
        if all(name in self.constants for name in reads):
            self._fold(node, where)
            return None
        unknown = [name for name in reads if name not in self.constants and name not in self.alone[0]]
        if unknown:
            raise self._refusal(where, f"it reads {unknown[0]!r}, which no node before it writes")
        attributes = self._attributes(node, where)
        operator = OPERATORS.get(node.op_type) if node.domain in _IGNORED else None
        if operator is None:
            raise self._refusal(where, f"this operator is not read. Those that are: {', '.join(sorted(OPERATORS))}")
        step = self._made(node, operator, attributes, where)
        self._run(step, where)
        return step

    def _shape(self, node: Any) -> None:
        """Take sizes as they are for one example."""
        shape = self.alone[0][node.input[0]].shape
        kept = {one.name: one.i for one in node.attribute}
        sizes = list(shape)[kept.get("start", 0) : kept.get("end", len(shape))]
        found = np.array(sizes if node.op_type == "Shape" else shape.numel(), dtype=np.int64)
        self.constants[node.output[0]] = found

    def _fold(self, node: Any, where: str) -> None:
        """Compute what is constant, by the reference of the `onnx` package."""
        onnx = onnx_package()
        try:
            if node.op_type == "Constant" and node.domain in _IGNORED:
                found = onnx.reference.ReferenceEvaluator(node).run(None, {})
            else:
                names = [name for name in node.output if name]
                given = dict.fromkeys(name for name in node.input if name)
                graph = onnx.helper.make_graph(
                    [node],
                    "one",
                    [onnx.ValueInfoProto(name=name) for name in given],
                    [onnx.ValueInfoProto(name=name) for name in names],
                )
                opsets = [onnx.helper.make_opsetid(node.domain, self.file.opset)]
                one = onnx.helper.make_model(graph, opset_imports=opsets)
                values = {name: self.constants[name] for name in given}
                found = onnx.reference.ReferenceEvaluator(one).run(None, values)
        except Exception as error:  # whatever the reference raises of a node that it does not know
            raise self._refusal(where, f"a constant that cannot be computed ({_first(error)})") from error
        self.constants.update(zip((name for name in node.output if name), found, strict=False))

    def _attributes(self, node: Any, where: str) -> dict[str, Any]:
        """Attributes as plain values; a precision becomes torch's."""
        onnx = onnx_package()
        found: dict[str, Any] = {}
        for one in node.attribute:
            value = onnx.helper.get_attribute_value(one)
            if isinstance(value, bytes):
                value = value.decode()
            if isinstance(value, onnx.GraphProto | onnx.TensorProto | onnx.SparseTensorProto):
                raise self._refusal(where, f"the attribute {one.name!r} holds a graph or a tensor")
            found[one.name] = (
                tuple(value)
                if isinstance(value, list) or (hasattr(value, "__len__") and not isinstance(value, str))
                else value
            )
        if node.op_type == "Split":
            found.setdefault("num_outputs", len(node.output))
        if "to" in found:
            if found["to"] not in precisions():
                raise self._refusal(where, "a cast to whole numbers, through which no gradient and no bound passes")
            found["to"] = precisions()[found["to"]]
        return found

    def _made(self, node: Any, operator: Any, attributes: dict[str, Any], where: str) -> Step:
        values = self.alone[0]
        places: list[Any] = []
        tensors: dict[int, Tensor] = {}
        shapes: list[tuple[int, ...]] = []
        dtype = next(values[name].dtype for name in node.input if name in values)
        for number, name in enumerate(node.input):
            shapes.append(tuple(values[name].shape) if name in values else ())
            if not name:
                places.append(None)
            elif name in values:
                places.append(name)
            else:
                own = (node.op_type, number)
                single = own in NUMBERS and self.constants[name].size == 1
                place = self.constants[name].item() if single else self._constant(name, own in TENSORS)
                if isinstance(place, Tensor):
                    if node.op_type == "Gather":
                        axis = attributes.get("axis", 0)
                        place = place % shapes[0][axis]
                    tensors[number], place = place, Held(number)
                places.append(place)
        call = Call(attributes=attributes, opset=self.file.opset, shapes=tuple(shapes), dtype=dtype)
        step = Step(operator, call, places, list(node.output), where)
        for number, tensor in tensors.items():
            step.register_buffer(f"operand{number}", tensor)
        return step

    def _constant(self, name: str, tensor: bool) -> Any:
        """A constant as an operand: short lists of whole numbers and single numbers as Python's, others as tensors."""
        array = self.constants[name]
        if not tensor and array.ndim <= 1 and array.dtype.kind in "iub":
            return array.tolist()
        if not tensor and array.ndim == 0:
            return float(array)
        if name not in self.held:
            kept = array.astype("float32") if array.dtype.name == "bfloat16" else array
            found = torch.tensor(kept)
            self.held[name] = found.bfloat16() if array.dtype.name == "bfloat16" else found
        return self.held[name]

    def _run(self, step: Step, where: str) -> None:
        try:
            for values in self.alone:
                values.update(zip(step.writes, step(values, 1), strict=False))
        except UnsupportedError as error:
            raise self._refusal(where, str(error)) from error
        except Exception as error:
            raise self._refusal(where, f"a form of this operator that is not read ({_first(error)})") from error
        if self.together is None:
            return
        try:
            found = dict(zip(step.writes, step(self.together, TRIED), strict=False))
        except Exception:  # shapes that fit one example alone
            self.together = None
            return
        if all(self._alike(value, [values[name] for values in self.alone]) for name, value in found.items()):
            self.together.update(found)
        else:
            self.together = None

    def leads(self, output: str) -> bool:
        """Whether the first axis of a batch's output is the batch."""
        assert self.together is not None
        found, alone = self.together[output], [values[output].reshape(1, -1) for values in self.alone]
        return found.shape[:1] == (TRIED,) and self._alike(found.reshape(TRIED, -1), alone)

    @staticmethod
    def _alike(together: Tensor, alone: list[Tensor]) -> bool:
        """Whether a batch's value holds what the examples have alone, one after another along one of its axes."""
        if together.numel() != TRIED * alone[0].numel():
            return False
        rows = torch.stack(alone)
        known = rows[rows.isfinite()]
        close = CLOSE.get(rows.dtype, 0.0) * float(known.abs().amax()) if known.numel() else 0.0
        ways = [rows.reshape(together.shape)] if together.ndim and together.shape[0] % TRIED == 0 else []
        if together.ndim == alone[0].ndim:
            sizes = zip(together.shape, alone[0].shape, strict=True)
            ways += [torch.cat(alone, axis) for axis, (all_, one) in enumerate(sizes) if all_ == TRIED * one]
        return any(
            way.shape == together.shape
            and bool(torch.isclose(together, way, rtol=0.0, atol=close, equal_nan=True).all())
            for way in ways
        )

    def _refusal(self, where: str, reason: str) -> UnsupportedError:
        return UnsupportedError(f"{self.file.path}: node {where}: {reason}")


def _where(node: Any) -> str:
    """A node's name and operator."""
    kind = node.op_type if node.domain in _IGNORED else f"{node.domain}.{node.op_type}"
    return f"{node.name or ', '.join(node.output)} ({kind})"


def _names(file: OnnxFile) -> Iterator[str]:
    """A name for each node that a module may bear, each once."""
    seen: set[str] = set()
    for number, node in enumerate(file.nodes):
        name = re.sub(r"\W+", "_", node.name).strip("_") or f"{node.op_type}_{number}"
        if name in seen or hasattr(nn.Module, name) or hasattr(OnnxNetwork, name):
            name = f"node_{number}_{name}"
        seen.add(name)
        yield name


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
