"""Between which limits every output of a network stays, whatever the threat's set does to its inputs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trustbound.certificates.certifying import box_of, checked_inputs, enclosing, resolve, sizes_of
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.graph.reading import read
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS, CertifierRow
from trustbound.certificates.specification import Certifier, LowerBound
from trustbound.errors import UnsupportedError
from trustbound.record.box import Box, Limit

if TYPE_CHECKING:
    from trustbound.threat.threat import Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class OutputRanges:
    """Limits that no output leaves, of each example.

    Shapes      lower, upper, exact_lower, exact_upper (B, *O) float64, *O the shape of one answer.

    `lower` and `upper` hold for the model as it runs, with all that its own precision may round; they are infinite
    where it may overflow or round beyond all bounds. `exact_lower` and `exact_upper` are about the same network in
    exact arithmetic.
    """

    name: str
    lower: Tensor
    upper: Tensor
    exact_lower: Tensor
    exact_upper: Tensor
    seconds: float

    @property
    def width(self) -> Tensor:
        """How far apart the limits are, (B, *O)."""
        return self.upper - self.lower

    def __repr__(self) -> str:
        """How many outputs were bounded, how far apart, in what time."""
        width = self.width.flatten()
        known = width[width.isfinite()]
        said = f"OutputRanges: {self.name} bounds {len(known):,} of {len(width):,} outputs in {self.seconds:.2g} s"
        if not len(known):
            return said
        return f"{said}; width {float(known.median()):.3g} in the median, {float(known.max()):.3g} at most"


def output_ranges(
    name: str | Certifier,
    model: nn.Module | Graph,
    inputs: Tensor,
    threat: Threat | str,
    *,
    sizes: Tensor | None = None,
    batch_size: int | None = None,
    box: Box | tuple[Limit, Limit] | None = None,
    **params: Any,
) -> OutputRanges:
    """Bound every output of a model from both sides, over all that a threat allows around inputs (B, *F), to ε + τ.

    Outputs are numbers of a regression, logits, or maps: of any network that can be read, (B, *O). `name` is a
    certifier that bounds layers (`interval`, `crown`, `alpha-crown`, `lipschitz`), or one that is made already; each
    returns the narrowest of its own limits and every cheaper one's. The goal of the threat does not matter: limits are
    about all of its inputs. `sizes` (B,) take the place of its ε, `box` that of the model's own.

    Raises      UnsupportedError when the model or the set has no proof: the layer is named. InputError for an unknown
                name, parameters that the certifier does not take, wrong shapes, inputs outside the box.

    >>> linear = nn.Linear(2, 1)
    >>> _ = linear.weight.data.copy_(torch.tensor([[1.0, -2.0]])), linear.bias.data.fill_(0.5)
    >>> found = output_ranges("crown", linear, torch.tensor([[0.5, 0.25]]), "linf:0.125", box=(0.0, 1.0))
    >>> found.lower.round(decimals=4), found.upper.round(decimals=4)
    (tensor([[0.1250]], dtype=torch.float64), tensor([[0.8750]], dtype=torch.float64))
    """
    from trustbound.threat.threat import Threat

    started = time.perf_counter()
    certifier, known = resolve(name, **params)
    threat = Threat.parse(threat)
    if not isinstance(certifier, Certifier) or certifier.refutes or not known.serves(threat.perturbations):
        raise UnsupportedError(_unserved(known, threat))
    checked_inputs(inputs)
    limits = box_of("output_ranges", model, inputs, box, batch_size)
    graph = model if isinstance(model, Graph) else read(model, inputs, maps=_is_map(model, inputs))
    check_kernels(graph)
    if graph.head != len(graph.operations) - 1:
        raise UnsupportedError(
            "no ranges: the network ends in log-softmax, of which differences are bounded alone. Take the network "
            "before it, or certify margins."
        )
    around = enclosing(graph, inputs, threat, sizes_of(sizes, threat, inputs, graph.device), limits)
    count = graph.classes
    found = torch.full((4, len(inputs), count), torch.inf, dtype=torch.float64, device=graph.device)
    units = torch.eye(count, dtype=torch.float64, device=graph.device)
    at_once = max(1, certifier.memory // (64 * count))
    for part in torch.arange(len(inputs), device=graph.device).split(batch_size or max(1, len(inputs))):
        region = around(part)
        for outputs in torch.arange(count, device=graph.device).split(at_once):
            rows = torch.cat([units[outputs], -units[outputs]]).expand(len(region), -1, -1)
            bound = _bounds(certifier, graph, region, rows)
            for place, side in enumerate((bound.run, bound.value)):
                below, above = side.nan_to_num(-torch.inf, torch.inf, -torch.inf).chunk(2, 1)
                at = part.unsqueeze(1), outputs.unsqueeze(0)
                found[2 * place][at], found[2 * place + 1][at] = below, -above
    lower, upper, exact_lower, exact_upper = found.reshape(4, len(inputs), *graph.answer)
    return OutputRanges(
        name=known.name,
        lower=lower,
        upper=upper,
        exact_lower=exact_lower,
        exact_upper=exact_upper,
        seconds=time.perf_counter() - started,
    )


def _bounds(certifier: Certifier, graph: Graph, region: Region, rows: Tensor) -> LowerBound:
    """Bound rows; in exact arithmetic once more where a coarse precision blurs that bound too."""
    bound = certifier.bounds(graph, region, rows)
    if all(step.dtype in (torch.float64, torch.float32, None) for step in graph.operations):
        return bound
    exact = certifier.bounds(graph.without_rounding(), region, rows)
    return LowerBound(value=torch.fmax(bound.value, exact.value), run=bound.run)


def _is_map(model: nn.Module, inputs: Tensor) -> bool:
    """Say whether a model's answers are maps, or anything else of several axes; what cannot be asked `read` says."""
    try:
        with torch.no_grad():
            outputs = model(inputs[:1])
    except Exception:
        return False
    return isinstance(outputs, Tensor) and outputs.ndim > 2


def _unserved(known: CertifierRow, threat: Threat) -> str:
    """Say why a certifier has no ranges under a threat, and which ones have."""
    serving = [
        row.name
        for row in CERTIFIERS
        if row.layers and row.deterministic and row.serves(threat.perturbations) and row.name != "branch-and-bound"
    ]
    hint = f" Take one of {', '.join(serving)}." if serving else ""
    return f"no ranges: {known.name} has none under {threat.perturbations.name}.{hint}"
