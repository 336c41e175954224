"""Decide a property of a network: an input that breaks it, a proof that there is none, or neither."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from trustbound.attacks.model_access.untouched import untouched
from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.graph.matrix_operations import Dense
from trustbound.certificates.graph.operations import Activation, Linear
from trustbound.certificates.graph.reading import read
from trustbound.certificates.methods.alpha_crown import AlphaCrown
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.methods.interval import Interval
from trustbound.certificates.region import Region
from trustbound.certificates.specification import Certifier
from trustbound.certificates.verification.branch_and_bound import BranchAndBound
from trustbound.certificates.verification.falsifying import Falsifier, Witness
from trustbound.certificates.verification.input_splitting import InputSplitting
from trustbound.certificates.verification.properties import Property, Query
from trustbound.certificates.verification.vnnlib import read_vnnlib
from trustbound.errors import InputError, ModelError, UnsupportedError
from trustbound.model.files.onnx_network import OnnxNetwork
from trustbound.model.load import load_model
from trustbound.model.wrapping import Model, wrap

#: Boxes with at most so many sides that are no points are halved; in others ReLUs are split.
FEW = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationResult:
    """What was decided of a property.

    Parameters
        verdict     "sat": an input breaks the property; "unsat": it is proven that none does; "timeout"; "unknown".
        witness     of "sat" the input and its outputs.
        reason      why it is unknown, or how it was decided.

    >>> VerificationResult(verdict="unsat", reason="by crown", seconds=0.1).text()
    'unsat'
    """

    verdict: str
    reason: str
    seconds: float
    witness: Witness | None = None

    def text(self) -> str:
        """The verdict, and the witness behind it, in the form of VNN-COMP."""
        if self.witness is None:
            return self.verdict
        named = [("X", self.witness.inputs), ("Y", self.witness.outputs)]
        pairs = [f"({letter}_{place} {value!r})" for letter, part in named for place, value in enumerate(part.tolist())]
        return f"{self.verdict}\n(" + "\n".join(pairs) + ")"


def verify(
    model: str | Path | nn.Module,
    specification: str | Path | Property,
    *,
    timeout: float = 120.0,
    input_shape: Sequence[int] | None = None,
) -> VerificationResult:
    """Decide whether some input of a property's boxes has outputs in one of its unsafe sets.

    First a gradient descent looks for such an input; what it finds was measured again in float64 and, of an ONNX file
    where onnxruntime is installed, there. Then `interval`, `crown` and `alpha-crown` bound every row of the unsafe
    sets, a set being refuted where one of its rows is; what is left is split, the box where at most ten of its sides
    are no points, ReLUs and smooth activations else. "unsat" is said of a proof alone, which holds for the network as
    it runs, floating point included.

    Parameters
        model       an ONNX file or any other model that `load_model` reads; a module; a `Model`.
        specification   a VNN-LIB file, or a `Property`.
        timeout     seconds; it is looked at between pieces of work.
        input_shape of a module that is no `Model`, the features (*F) of one input; one axis unless given.

    Raises      InputError: files that cannot be read, a property of other numbers of inputs or outputs.

    >>> network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    >>> _ = nn.init.eye_(network[0].weight)
    >>> asked = Property.robust(torch.tensor([0.7, 0.3]), 0.1, label=0, classes=2)
    >>> verify(network, asked).verdict, verify(network, replace(asked, queries=())).reason
    ('unsat', 'the property has no inputs')
    """
    started = time.monotonic()
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
        raise InputError(f"`timeout` must be a number of seconds > 0; got {timeout!r}")
    asked = specification if isinstance(specification, Property) else read_vnnlib(specification)
    module, shape, path = _subject(model, asked, input_shape)
    with _in_eval(module):
        decision = _Decision(module=module, shape=shape, path=path, ends=started + timeout)
        asked.check_fits(shape, decision.outputs)
        asked.check_within(decision.dtype)
        verdict, reason, witness = decision.decide(asked)
    return VerificationResult(verdict=verdict, reason=reason, seconds=time.monotonic() - started, witness=witness)


def _subject(
    model: str | Path | nn.Module, asked: Property, input_shape: Sequence[int] | None
) -> tuple[nn.Module, tuple[int, ...], Path | None]:
    """The module, the features of one input, and the ONNX file that it came from."""
    path = None
    if isinstance(model, str | Path):
        place = Path(model).expanduser()
        model = load_model(model)
        path = place if isinstance(model.module, OnnxNetwork) else None
    if not isinstance(model, nn.Module):
        raise InputError(f"`model` must be a file or a torch module; got {type(model).__name__}")
    own = model.input_shape if isinstance(model, Model) else model.features if isinstance(model, OnnxNetwork) else None
    if isinstance(model, Model):
        if model.shows != "gradients":
            raise InputError(
                "a property is decided of a torch module or an ONNX file; this model has no layers to bound"
            )
        # What outputs mean is nothing to a property: a task would refuse some.
        model = model.module if model.mean is None and model.std is None and model.output is None else model
    shape = tuple(input_shape) if input_shape is not None else own or (asked.inputs,)
    if math.prod(shape) != asked.inputs:
        asked.check_fits(shape, asked.outputs)
    return model, shape, path


@contextlib.contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    """Have a network in eval mode for a while, and leave it as it came."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        with untouched(wrap(module), 0):
            module.eval()
            yield
    finally:
        for part, training in modes:
            part.training = training


class _Flat(nn.Module):
    """A network whose outputs (B, *O) are numbers one after another, (B, M)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.module(inputs)
        outputs = outputs[0] if isinstance(outputs, tuple | list) else outputs
        if outputs.ndim == 1:
            return outputs.unsqueeze(1)  # type: ignore[no-any-return]
        return outputs if outputs.ndim == 2 else outputs.flatten(1)  # type: ignore[no-any-return]


class _Decision:
    """One decision: the network in the forms that are asked, and when time ends."""

    def __init__(self, *, module: nn.Module, shape: tuple[int, ...], path: Path | None, ends: float) -> None:
        self.module, self.shape, self.ends = _Flat(module).eval(), shape, ends
        own = [part for part in (*module.parameters(), *module.buffers()) if part.is_floating_point()]
        self.dtype, self.device = (own[0].dtype, own[0].device) if own else (torch.float32, torch.device("cpu"))
        try:
            with torch.no_grad():
                outputs = self.module(torch.zeros(1, *shape, dtype=self.dtype, device=self.device))
        except Exception as error:
            raise ModelError(
                f"the network raised on one input of shape {(1, *shape)} ({str(error).splitlines()[0]}). Pass "
                "input_shape=…, the features of one input"
            ) from error
        self.outputs = outputs.shape[1]
        self.falsifier = Falsifier(module=self.module, shape=shape, dtype=self.dtype, device=self.device, path=path)
        self.unread = ""

    def expired(self) -> bool:
        """Whether there is no time left."""
        return time.monotonic() >= self.ends

    def decide(self, asked: Property) -> tuple[str, str, Witness | None]:
        """The verdict, why, and the witness."""
        if not asked.queries:
            return "unsat", "the property has no inputs", None
        for query in asked.queries:
            if (found := self.falsifier.search(query, self.expired)) is not None:
                return "sat", "an input was found by descent", found
        graph = self._graph(asked)
        if graph is None:
            return ("timeout", "no proof was begun", None) if self.expired() else ("unknown", self.unread, None)
        ways: set[str] = set()
        for query in asked.queries:
            proven, way, found = _Proof(self, graph, query).run()
            if found is not None:
                return "sat", f"an input was found by {way}", found
            if not proven:
                return ("timeout", f"in {way}", None) if self.expired() else ("unknown", way, None)
            ways.add(way)
        return "unsat", f"by {', '.join(sorted(ways))}", None

    def _graph(self, asked: Property) -> Graph | None:
        """The network as a list of operations; None where it cannot be read, `unread` says why."""
        if self.expired():
            return None
        low, high = (torch.stack([getattr(query, side) for query in asked.queries]) for side in ("low", "high"))
        points = torch.cat([low, high, (low + high) / 2])[:64].reshape(-1, *self.shape)
        try:
            graph = read(self.module, points.to(self.device, self.dtype))
            check_kernels(graph)
        except UnsupportedError as error:
            self.unread = str(error)
            return None
        if graph.head != len(graph.operations) - 1:
            self.unread = "no proof: the network ends in log-softmax, of which differences alone are bounded"
            return None
        return graph


class _Proof:
    """The proof of one query: sets are refuted by bounds, then by splitting."""

    def __init__(self, decision: _Decision, graph: Graph, query: Query) -> None:
        self.decision, self.network, self.query = decision, graph, query
        self.open = list(query.unsafe)
        shape, infinity = (1, *decision.shape), torch.full_like(query.low, math.inf)
        low, high = torch.nextafter(query.low, -infinity), torch.nextafter(query.high, infinity)
        # Limits as whoever feeds the network holds them: in its own precision.
        low = torch.minimum(low, query.low.to(decision.dtype).double())
        high = torch.maximum(high, query.high.to(decision.dtype).double())
        self.low, self.high = low.to(decision.device), high.to(decision.device)
        self.region = Region.between(self.low.reshape(shape), self.high.reshape(shape))
        self.found: Witness | None = None

    def run(self) -> tuple[bool, str, Witness | None]:
        """Whether no unsafe set is reached, by what or why not, and what reaches one."""
        if any(not len(one.rows) for one in self.open):
            return False, "a set of all outputs is unsafe, and no input was found", None
        for name, certifier in (("interval", Interval()), ("crown", Crown()), ("alpha-crown", AlphaCrown())):
            if self.decision.expired():
                return False, name, None
            self._refute(certifier)
            if not self.open:
                return True, name, None
        few = int((self.query.high > self.query.low).sum()) <= FEW
        curved = any(isinstance(step, Smooth) for step in self.network.operations)
        name = "splitting inputs" if few else "splitting activations" if curved else "splitting ReLUs"
        graph, groups = self._specified()
        with torch.no_grad():
            if few:
                splitting = InputSplitting(
                    graph=graph, groups=groups, replay=self._replay, expired=self.decision.expired
                )
                proven = splitting.run(self.low, self.high)
            else:
                proven = self._split_activations(graph, groups)
        if proven or self.found is not None:
            return proven, name, self.found
        return False, name if self.decision.expired() else f"{name} did not decide it", None

    def _refute(self, certifier: Certifier) -> None:
        """Leave the sets out of which a row is proven above its limit."""
        graph, groups = self._specified()
        rows = torch.eye(graph.classes, dtype=torch.float64, device=graph.device).unsqueeze(0)
        safe = certifier.bounds(graph, self.region, rows).proven[0]
        closed = {int(group) for group in groups[safe]}
        self.open = [one for place, one in enumerate(self.open) if place not in closed]

    def _specified(self) -> tuple[Graph, Tensor]:
        """The network with the rows of the open sets, less their limits, as its outputs; and whose rows they are."""
        device = self.network.device
        weight = torch.cat([one.rows for one in self.open]).to(device)
        limits = torch.cat([one.limits for one in self.open]).to(device)
        groups = torch.cat([torch.full((len(one.rows),), place) for place, one in enumerate(self.open)]).to(device)
        last = self.network.operations
        rows = Dense(
            sources=(len(last) - 1,),
            shape=(len(weight),),
            where="the property",
            dtype=None,  # what is asked of the outputs is computed by nobody
            weight=weight,
            bias=-limits,
            bias_size=limits.abs(),
        )
        return replace(self.network, operations=(*last, rows), cache={}), groups

    def _split_activations(self, graph: Graph, groups: Tensor) -> bool:
        if not all(isinstance(step, Activation | Linear | Smooth) or not step.sources for step in graph.operations):
            return False
        if self.decision.expired():
            return False
        left = max(0.0, self.decision.ends - time.monotonic())
        rows = torch.eye(graph.classes, dtype=torch.float64, device=graph.device)
        certifier = BranchAndBound(timeout=left, max_nodes=10**9)
        return bool(certifier.branch(graph, self.region, rows, self._replay, groups).proven.all())

    def _replay(self, points: Tensor) -> bool:
        """Say whether one of the points breaks the query, and keep it."""
        if self.found is None:
            self.found = self.decision.falsifier.confirm(self.query, points.flatten(1))
        return self.found is not None
