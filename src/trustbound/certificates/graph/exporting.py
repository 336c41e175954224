"""Export a module into a functional program: no views that are written through, no hidden casts, any batch size."""

from __future__ import annotations

import io
import logging
import operator
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils._sympy.symbol import SymT, symbol_is_type

from trustbound.certificates.graph.normalisation import own_eps
from trustbound.certificates.graph.recording import Call, Recorder, as_if_it_ran, check_same
from trustbound.errors import UnsupportedError

#: How many examples a module is exported with: nothing but the batch axis may change with it.
BATCH = 3
#: Batch sizes at which a program that was fixed to one is exported again.
OTHERS = (2, 64, 1000)
#: Batch sizes at which the conditions of a free one are asked that are not linear in it.
SIZES = (*range(2, 130), 200, 250, 255, 256, 257, 500, 512, 1000, 1024, 2048, 4096, 10_000, 65_536, 1_000_000)


class Called(nn.Module):
    """A module called with exactly one argument, whatever its forward would take, and not told that it is traced.

    `note` is told what each run of its forward asks of torch.
    """

    def __init__(self, module: nn.Module, note: Callable[[list[Call]], None]) -> None:
        super().__init__()
        self.module = module
        self.note = note  # a list of its own would be put back by the export as it was

    def forward(self, inputs: Tensor) -> Any:
        """Call it."""
        recorder = Recorder()
        self.note(recorder.calls)
        with as_if_it_ran(), recorder:
            return self.module(inputs)


@dataclass(frozen=True, kw_only=True, eq=False)
class Exported:
    """A functional program and the name of its batch axis: a symbol, or a number where it was fixed to one.

    `explicit` says that the module names precisions itself, so that a float64 copy of it is not float64 throughout;
    `plain` that it had nothing to be made functional. `calls` is what the forward asked of torch when it was traced.
    """

    program: torch.export.ExportedProgram
    batch: Any
    explicit: bool
    plain: bool
    calls: Sequence[Call]

    @property
    def fixed(self) -> bool:
        """Whether the program is of one batch size alone."""
        return isinstance(self.batch, int)


def export(module: nn.Module, sample: Tensor, *, free: bool = True, whole: bool = False) -> Exported:
    """Export a module for inputs like `sample` (B, *F), with a free batch axis unless the module fixes it.

    The program is functional: every operation in place, through a view or into a buffer, has become one that
    returns its result (torch's functionalisation), and every cast of an autocast region stands in it. That is twice
    the cost of the export, so that a program that changes nothing and holds no region stays as it is, unless `whole`.

    Raises      UnsupportedError with the first line of torch's refusal and the line of the module that it met.
    """
    sizes: Any = {"inputs": {0: torch.export.Dim.AUTO}} if free else None
    runs: list[list[Call]] = []
    called = Called(module, runs.append)
    try:
        with _quiet():
            original = torch.export.export(called, (sample,), strict=False, dynamic_shapes=sizes)
            unseen = _reads_unseen(original)  # before anything is made functional, which names them anew
            plain = not whole and all(_pure(node) for node in original.graph.nodes)
            program = original if plain else original.run_decompositions({})
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise UnsupportedError(
            f"no proof: torch.export cannot read the model{_line(error)}: {reason[0]} "
            "Certificates need a forward pass in torch, without branches that depend on the values of the inputs."
        ) from error
    given = [node for node in program.graph.nodes if node.op == "placeholder"][-1].meta["val"]
    explicit = any(
        isinstance(value, torch.dtype)
        for node in original.graph.nodes
        if "assert" not in str(node.target)
        for value in (*node.args, *node.kwargs.values())
    )
    calls = runs[-1]
    for earlier in runs:
        check_same(earlier, calls, len(sample))
    if unseen:
        raise UnsupportedError(
            "no proof: the forward reads numbers out of tensors (item, tolist) that its exported program does not use; "
            "compute with the tensors, or leave the numbers out"
        )
    size = given.shape[0]
    if not isinstance(size, torch.SymInt):
        return Exported(program=program, batch=int(size), explicit=explicit, plain=plain, calls=calls)
    if size.node.expr.is_number:  # the forward asks for its size as a Python number
        return export(module, sample, free=False, whole=whole)
    _refuse_conditions(size)
    return Exported(program=program, batch=size.node.expr, explicit=explicit, plain=plain, calls=calls)


def _pure(node: fx.Node) -> bool:
    """Say whether a node changes no memory and runs no region of its own rules."""
    if node.op != "call_function" or node.target is operator.getitem:
        return node.op in ("placeholder", "output", "call_function")
    if isinstance(node.target, torch._ops.OpOverload):
        return not node.target._schema.is_mutable
    return getattr(node.target, "__module__", "") == "_operator"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what torch prints of programs that it cannot read: the refusal says it."""
    names = ("torch.fx.experimental.symbolic_shapes", "torch._subclasses.fake_tensor", "torch.export")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.disabled for logger in loggers]
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.disabled = True
            yield
        finally:
            for logger, disabled in zip(loggers, before, strict=True):
                logger.disabled = disabled


def _reads_unseen(program: torch.export.ExportedProgram) -> bool:
    """Say whether numbers were read out of tensors that no step uses: what Python did with them is not in it."""
    values = [node.meta.get("val") for node in program.graph.nodes]
    known = next(value.fake_mode.shape_env for value in values if isinstance(value, FakeTensor))
    seen = {symbol for value in values for symbol in free_unbacked_symbols(value)}
    kinds = (SymT.UNBACKED_INT, SymT.UNBACKED_FLOAT)
    read = [] if known is None else [symbol for symbol in known.var_to_range if symbol_is_type(symbol, kinds)]
    return any(symbol not in seen for symbol in read)


def _refuse_conditions(size: torch.SymInt) -> None:
    """Refuse a program that holds only for some batch sizes."""
    symbol, known = size.node.expr, size.node.shape_env
    limits = known.var_to_range.get(symbol)
    conditions = [guard.expr for guard in known.guards]
    conditions += [item.expr for found in known.deferred_runtime_asserts.values() for item in found]
    if limits is not None:
        conditions += [symbol >= limits.lower, symbol <= limits.upper]
    for condition in conditions:
        count = _exception(condition, symbol)
        if count is not None:
            raise UnsupportedError(
                f"no proof: the model takes another way for a batch of {count} inputs than for {BATCH}; "
                "it must treat every example alike, however many come together"
            )


def _exception(condition: Any, symbol: Any) -> int | None:
    """Return a batch size from 2 on at which a recorded condition does not hold, None where it holds at all.

    A linear relation is solved, so that a single size or a far limit is found as well; limits beyond the largest
    32-bit number are those of torch. Any other relation is asked at `SIZES`.
    """
    if symbol not in getattr(condition, "free_symbols", ()):
        return None
    counts = set(SIZES)
    gap = condition.lhs - condition.rhs if hasattr(condition, "lhs") else None
    if gap is not None and gap.free_symbols == {symbol} and gap.is_polynomial(symbol) and gap.as_poly(symbol).is_linear:
        root = -gap.subs(symbol, 0) / gap.coeff(symbol)
        counts |= {int(root) + step for step in (-1, 0, 1)} if root.is_rational else set()
    for count in sorted(counts):
        if 2 <= count < 2**31 and bool(condition.subs(symbol, count) == False):  # noqa: E712
            return int(count)
    return None


def _line(error: BaseException) -> str:
    """Name the last line outside torch and this library that an error passed through, if there is one."""
    ours = tuple(
        os.path.dirname(path) + os.sep for path in (torch.__file__, os.path.dirname(os.path.dirname(__file__)))
    )
    seen: BaseException | None = error
    while seen is not None:
        trace, found = seen.__traceback__, ""
        while trace is not None:
            code = trace.tb_frame.f_code
            library = code.co_filename.startswith((*ours, "<")) or os.sep + "lib" + os.sep in code.co_filename
            if not library:
                found = f" at {os.path.basename(code.co_filename)}:{trace.tb_lineno} ({code.co_name})"
            trace = trace.tb_next
        if found:
            return found
        seen = seen.__cause__ or seen.__context__
    return ""


class Exactly(fx.Interpreter):
    """Run a functional program in float64, with constants as the module computed them in its own precision.

    `values` holds what a translator found every node to be; those that hang on nothing but constants are kept.
    """

    def __init__(self, exported: Exported, values: dict[fx.Node, Any]) -> None:
        program = exported.program
        super().__init__(program.graph_module)
        self.rows = BATCH if exported.fixed else 0
        given, outputs = set(program.graph_signature.user_inputs), set(program.graph_signature.user_outputs)
        moving: set[fx.Node] = set()
        self.constants: dict[fx.Node, Any] = {}
        for node in program.graph.nodes:
            if node.name in given or any(source in moving for source in node.all_input_nodes):
                moving.add(node)
            elif node in values:
                self.constants[node] = _wide(values[node])
        self.wanted = next(node for node in program.graph.nodes if node.name in outputs)
        self.open = [node for node in program.graph.nodes if node.op == "placeholder"]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the program's logits for inputs (B, *F) in float64."""
        if not self.rows:
            return self._run(inputs)
        short = -len(inputs) % self.rows
        parts = torch.cat([inputs, inputs[-1:].expand(short, *inputs.shape[1:])]).split(self.rows)
        return torch.cat([self._run(part) for part in parts])[: len(inputs)]

    def _run(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.run(*(None if node in self.constants else inputs for node in self.open))
        return found

    def run_node(self, n: fx.Node) -> Any:
        """Take a constant as it is known; compute everything else in float64."""
        if n in self.constants:
            if n.op == "placeholder":
                next(self.args_iter)
            return self.constants[n]
        if n.op == "output":
            return self.env[self.wanted]
        if n.op == "call_function" and ("assert" in str(n.target) or "constrain" in str(n.target)):
            return None
        if n.target is torch.ops.aten.rms_norm.default and len(n.args) < 4 and n.kwargs.get("eps") is None:
            # Left open, eps is that of the precision in which the module computes.
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            kwargs = {**kwargs, "eps": own_eps(n.all_input_nodes[0].meta["val"].dtype)}
            return self.call_function(n.target, args, kwargs)
        return super().run_node(n)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Compute in float64 what the module computes in another precision."""
        return _wide(super().call_function(target, _wide(args), _wide(kwargs)))


def _wide(value: Any) -> Any:
    """Return floating tensors and precisions, however nested, as float64."""
    if isinstance(value, dict):
        return {name: _wide(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)([_wide(item) for item in value])
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value
