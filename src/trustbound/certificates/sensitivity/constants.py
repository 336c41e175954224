"""Lipschitz constants of a network: from above by its layers, from below by two inputs."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.reading import read
from trustbound.certificates.methods.crown import Crown, room
from trustbound.certificates.region import Region
from trustbound.certificates.sensitivity.gains import gains
from trustbound.certificates.sensitivity.jacobian import jacobian_bounds
from trustbound.certificates.sensitivity.layer_table import LayerBound, frame, layer_table, printed, rounded_up
from trustbound.certificates.sensitivity.operator_norms import NORMS
from trustbound.certificates.sensitivity.secants import Secant, steepest_secant
from trustbound.certificates.sensitivity.semidefinite import lipsdp
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import check_fits, placed
from trustbound.record.box import Box, Limit
from trustbound.threat.random import Random, new_key

if TYPE_CHECKING:
    from pandas import DataFrame

    from trustbound.threat.threat import Threat

#: Random points of the box from which the ascent starts as well.
_DRAWN = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class LipschitzResult:
    """How fast a network's logits can change, for each norm that was asked for.

    layers  one row for each layer that stretches, shrinks or joins.
    upper   of the whole network, everywhere: ‖f(x) − f(x')‖ ≤ upper · ‖x − x'‖ in the norm. Proven for exact
            arithmetic, rounded outward. Large bounds do not mean that adversarial examples exist.
    local   of a threat, if one was given: an upper bound (B,) for each input of how fast the logits can change inside
            the threat's region around it, in the threat's norm; never above `upper`. None without a threat.
    lower   what two inputs of the box attain, measured in float64: no constant below it is one. `secants` holds them.
    semidefinite  an upper bound in l2 by LipSDP where it was asked for, never above the product; None elsewhere.
    ratio   upper / lower, infinite where no two inputs were found that differ.
    """

    layers: tuple[LayerBound, ...]
    upper: Mapping[str, float]
    lower: Mapping[str, float]
    secants: Mapping[str, Secant]
    seconds: float
    threat: Threat | None = None
    local: Tensor | None = None
    semidefinite: float | None = None

    @property
    def ratio(self) -> Mapping[str, float]:
        """How far the two bounds lie apart."""
        return {
            norm: upper / self.lower[norm] if self.lower[norm] else float("inf") for norm, upper in self.upper.items()
        }

    def __repr__(self) -> str:
        """The table, and under it for each norm the bounds of the whole."""
        kinds = list(self.upper)
        ends = [
            f"{norm}: {rounded_up(-self.lower[norm])[1:] if self.lower[norm] else 0} ≤ Lipschitz constant ≤ "
            f"{rounded_up(self.upper[norm])}, ratio {self.ratio[norm]:.3g}"
            for norm in kinds
        ]
        if self.semidefinite is not None:
            ends.append(f"l2: Lipschitz constant ≤ {rounded_up(self.semidefinite)} by LipSDP")
        if self.local is not None:
            least, middle, most = (rounded_up(float(self.local.quantile(share))) for share in (0.0, 0.5, 1.0))
            ends.append(f"inside {self.threat} of the inputs at most {least} to {most}, median {middle}")
        return "\n".join([printed(self.layers, kinds), *ends])

    def to_frame(self) -> DataFrame:
        """The table as a pandas DataFrame, one row a layer (extra `frames`)."""
        return frame(self.layers, list(self.upper))


def lipschitz(
    model: nn.Module | Graph,
    inputs: Tensor | Sequence[int],
    threat: Threat | str | None = None,
    *,
    norms: Sequence[str] | None = None,
    semidefinite: bool = False,
    box: Box | tuple[Limit, Limit] | None = None,
    steps: int = 60,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> LipschitzResult:
    """Bound how fast a network can change, layer by layer and as a whole, and show how fast it does.

    Bound       Upper, by operator norms composed along the graph: they multiply along a chain, those of branches add.
                Lower, by two inputs of the box, which an ascent looks for. With a threat also upper bounds inside its
                region around each input, by intervals of the Jacobian between CROWN's limits of every layer; with
                `semidefinite` also one of the whole by LipSDP, for chains of at most 600 numbers.
    Needs       a network that can be read into a list of operations.  Norms: l2, l1, linf, the same for inputs and
                logits (l2 unless `norms` says otherwise); of a threat its own.
    Shapes      inputs (B, *F) in the box, or the shape (*F) of one. The ascent starts from them and from 16 random
                points.
    Cost        the norms: of a matrix the eigenvalues of its smaller Gram matrix, of a convolution a Fourier transform.
                The ascent: 2 · steps forwards and backwards, a third of it for every input. With a threat CROWN of
                every layer, and one way back of all logits for each input.
    Randomness  first directions and the random points: a function of (key, point).
    Raises      UnsupportedError naming the layer that has no constant: attention has none; for threats that are no norm
                ball. InputError for unknown norms, shapes that do not fit, inputs outside the box.
    Reference   Szegedy et al., Intriguing properties of neural networks, 2014, arXiv:1312.6199, section 4.3.
    Deviations  convolutions with their stride and channels whole: aliased frequencies are folded (the paper bounds
                blocks of one stride); max pools with overlapping windows count for √overlap in l2, not for 1.

    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = lipschitz(network, (4,), box=(0.0, 1.0))
    >>> print(found)  # doctest: +ELLIPSIS
    Layer  Kind    Size   Stride  Upper bound, l2  Product so far, l2
    0      Linear  4 × 8  N/A     0.99...
    2      Linear  8 × 2  N/A     0.68...
    l2: 0.29... ≤ Lipschitz constant ≤ 0.68..., ratio 2.3...
    >>> found.lower["l2"] <= found.upper["l2"]
    True
    """
    started = time.perf_counter()
    kinds, asked = _kinds(norms), _ball(threat, inputs)
    if type(steps) is not int or steps < 1:
        raise InputError(f"`steps` must be a whole number ≥ 1; got {steps!r}")
    limits = box if box is not None else getattr(model, "box", None)
    if limits is None:
        raise InputError("lipschitz needs the box of valid inputs: wrap the model, or pass box=(low, high)")
    limits, key = Box.of(limits), new_key(generator, seed)
    shape = _shape(inputs)
    drawn = _drawn(shape, limits, key)
    points = drawn
    if isinstance(inputs, Tensor):
        check_fits(inputs, limits)
        points = torch.cat([placed(inputs.detach(), limits), drawn.to(inputs)])
    graph, layers = _read(model, points, kinds)
    if shape != graph.shape:
        raise InputError(f"`inputs` must have the features {graph.shape} of the network; got {shape}")
    local = None
    if asked is not None and isinstance(inputs, Tensor):
        local = local_constants(graph, inputs.to(graph.device), limits, asked)
    secants = {norm: steepest_secant(graph, points, limits, norm, steps=steps, key=key) for norm in kinds}
    return LipschitzResult(
        layers=layers,
        upper={norm: gains(graph, norm)[-1] * (1 + 1e-12) for norm in kinds},
        lower={norm: secant.slope for norm, secant in secants.items()},
        secants=secants,
        seconds=time.perf_counter() - started,
        threat=asked,
        local=local,
        semidefinite=min(lipsdp(graph), gains(graph)[-1] * (1 + 1e-12)) if semidefinite else None,
    )


def local_constants(graph: Graph, inputs: Tensor, box: Box, threat: Threat) -> Tensor:
    """Bound how fast the logits can change inside a threat's region around each input, in its norm: (B,)."""
    norm, epsilon = threat.perturbations.norm, threat.perturbations.epsilon
    eye = torch.eye(graph.classes, dtype=torch.float64, device=graph.device)
    most = torch.tensor(gains(graph, norm)[-1], dtype=torch.float64, device=graph.device)
    found = []
    crown = Crown()
    for part in inputs.split(max(1, room(crown.memory, graph) // graph.classes)):
        with torch.no_grad():
            region = Region.around(part, box, norm, epsilon)
            rows = eye.expand(len(part), -1, -1)
            bounds = crown.limits(graph, region).bounds
            found.append(torch.fmin(jacobian_bounds(graph, region, bounds, rows).joint, most))
    return torch.cat(found)


def _ball(threat: Threat | str | None, inputs: Tensor | Sequence[int]) -> Threat | None:
    """Return the threat, refused where it is no ball or has nothing to be a ball around."""
    from trustbound.threat.threat import Threat

    if threat is None:
        return None
    threat = Threat.parse(threat)
    if threat.perturbations.norm not in NORMS or threat.perturbations.per_column:
        raise UnsupportedError(f"local Lipschitz constants exist in the norms {', '.join(NORMS)}; got {threat}")
    if not isinstance(inputs, Tensor):
        raise InputError(f"a threat needs `inputs` (B, *F) to be around, not the shape of one; got {inputs!r}")
    return threat


def bare_logits(graph: Graph) -> Graph:
    """Return the network up to its logits: a log-softmax behind them takes one number off all of them."""
    last = graph.head + 1
    return graph if last == len(graph.operations) else replace(graph, operations=graph.operations[:last], cache={})


def _kinds(norms: Sequence[str] | None) -> tuple[str, ...]:
    if norms is None:
        return ("l2",)
    kinds = (norms,) if isinstance(norms, str) else tuple(norms)
    if not kinds or any(norm not in NORMS for norm in kinds):
        raise InputError(f"`norms` must be some of {', '.join(NORMS)}; got {norms!r}")
    return tuple(dict.fromkeys(kinds))


def _shape(inputs: Tensor | Sequence[int]) -> tuple[int, ...]:
    """Return the features (*F) of one input."""
    if isinstance(inputs, Tensor):
        if inputs.ndim < 2 or not inputs.is_floating_point() or not inputs.numel():
            came = f"{tuple(inputs.shape)} {inputs.dtype}"
            raise InputError(f"`inputs` must be a float tensor (B, *F) with B ≥ 1, or a shape; got {came}")
        return tuple(inputs.shape[1:])
    shape = tuple(inputs) if isinstance(inputs, tuple | list) else ()
    if not shape or any(type(side) is not int or side < 1 for side in shape):
        came = repr(inputs) if isinstance(inputs, tuple | list | int) else type(inputs).__name__
        raise InputError(f"`inputs` must be a float tensor (B, *F), or a shape such as (1, 28, 28); got {came}")
    return shape


def _drawn(shape: tuple[int, ...], box: Box, key: int) -> Tensor:
    """Return random points of the box."""
    low, high = (torch.as_tensor(limit, dtype=torch.float32) for limit in (box.low, box.high))
    random = Random(key, torch.arange(_DRAWN)).stream("lipschitz").uniform(shape, restart=0, draw=0)
    return (low + (high - low) * random).clamp(low, high)


def _read(model: nn.Module | Graph, points: Tensor, kinds: Sequence[str]) -> tuple[Graph, tuple[LayerBound, ...]]:
    """Read a module and bound its layers; say of one that attends why it has no constant."""
    try:
        graph = bare_logits(model if isinstance(model, Graph) else read(model, points))
        return graph, layer_table(graph, kinds)
    except UnsupportedError as error:
        named = None if isinstance(model, Graph) else _attention(model, points)
        if named is None:
            raise
        raise UnsupportedError(
            f"no Lipschitz constant: {named}: dot-product attention has none, since it multiplies values that both "
            "depend on the input (Kim et al. 2021, arXiv:2006.04710). Bound the layers before it, or use clever"
        ) from error


class _Attending(TorchFunctionMode):
    """Notes whether attention is computed."""

    seen = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        self.seen |= name in ("scaled_dot_product_attention", "multi_head_attention_forward")
        return func(*args, **(kwargs or {}))


def _attention(model: nn.Module, points: Tensor) -> str | None:
    """Return the path and class of the first module that attends, None where none does."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _Attending() as mode:
        try:
            copy.deepcopy(model).eval()(points[:1])  # a copy: running statistics stay as they are
        except Exception:
            return None
    if not mode.seen:
        return None
    for path, part in model.named_modules():
        if "attention" in type(part).__name__.lower():
            return f"{path.removeprefix('module.')} ({type(part).__name__})"
    return "forward (scaled_dot_product_attention)"
