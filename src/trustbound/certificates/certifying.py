"""Prove that no input the threat allows changes a prediction, for a batch of examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.graph.reading import read
from trustbound.certificates.refuting import Counterexamples
from trustbound.certificates.region import Region
from trustbound.certificates.registry import CERTIFIERS, CertifierRow
from trustbound.certificates.specification import Certifier, LowerBound
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import check_fits
from trustbound.record.box import Box, Limit
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task
from trustbound.threat.random import new_key

if TYPE_CHECKING:
    from trustbound.threat.threat import Threat


@dataclass(frozen=True, kw_only=True, eq=False)
class CertificationResult:
    """What was proven of each example.

    Shapes      certified (B,) bool; margin (B,) float64, a lower bound over the region of the task's margin in exact
                arithmetic, of a classification min over j of (logit of y − logit of j), of a segmentation that of the
                pixel that decides; slack (B,), what rounding in
                the precision in which the model computes may take, ∞ where it may overflow or round beyond all bounds.
                Of a method that looks for counterexamples also falsified (B,) bool and witness (B, *F), NaN where none
                was found; None elsewhere.

    `certified` says that the margin is larger than the slack. False proves nothing. For a wrongly classified
    input it is always False. `lost` (B,) bool says where rounding alone costs the proof. A falsified example has a
    witness: a point inside the threat, by its size in float64, that the model as it runs answers wrongly. What is
    neither certified nor falsified is unknown.
    """

    name: str
    certified: Tensor
    margin: Tensor
    slack: Tensor
    seconds: float
    falsified: Tensor | None = None
    witness: Tensor | None = None

    def __repr__(self) -> str:
        """How many are proven, by what, in what time; a second line where that is of another model, or not sure."""
        count, proven = len(self.certified), int(self.certified.sum())
        share = f" ({proven / count:.1%})" if count else ""
        said = (
            f"CertificationResult: {self.name} proves {proven:,} of {count:,} examples{share} in {self.seconds:.2g} s"
        )
        if self.falsified is not None:
            said += f"; {int(self.falsified.sum()):,} have a counterexample"
        return f"{said}\n  {self.claim}" if self.claim else said

    @property
    def lost(self) -> Tensor:
        """Examples proven in exact arithmetic and not as the model runs, (B,) bool."""
        return (self.margin > 0) & ~self.certified

    @property
    def claim(self) -> str:
        """Of which model the proofs hold and how surely, in words; empty where it is the model itself, for certain."""
        return ""


class Sampling(Protocol):
    """A certifier that bounds no norm ball of a network's layers: it draws, or splits, or reads trees."""

    def certify(
        self,
        model: nn.Module | Graph,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        *,
        box: Box,
        batch_size: int | None,
        key: int,
        task: Task,
    ) -> CertificationResult:
        """Certify inputs (B, *F) that were checked, each for its size (B,) and τ; `key` fixes every draw."""


def certify(
    name: str | Certifier | Sampling,
    model: nn.Module | Graph,
    inputs: Tensor,
    labels: Tensor,
    threat: Threat | str,
    *,
    sizes: Tensor | None = None,
    batch_size: int | None = None,
    box: Box | tuple[Limit, Limit] | None = None,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    **params: Any,
) -> CertificationResult:
    """Prove what can be proven of inputs (B, *F) with labels (B,) under a threat, to ε + τ.

    `name` is a row of the registry, with `params` for the certifier that it makes, or a certifier that is made
    already; `model` a module or a graph that `read` has made of it; box and task are the model's own unless they are
    given, and classification where it has none. `sizes` (B,), one for each input, take the place of the threat's ε.
    Batches are cut to fit the certifier's memory; `batch_size` cuts further.

    `generator`, or a `seed` for one, is for certifiers that draw; without either their draws are the same each time.

    Raises      UnsupportedError when the model, the norm or the goal has no proof: the layer is named.
                InputError for an unknown name, parameters that the certifier does not take, wrong shapes, labels that
                are no class, inputs outside the box.

    >>> from trustbound.threat import Threat
    >>> linear = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.75, 0.25], [0.55, 0.45]]), torch.tensor([0, 0])
    >>> certify("interval", linear, inputs, labels, Threat.parse("linf:0.1"), box=(0.0, 1.0)).certified
    tensor([ True, False])
    """
    started = time.perf_counter()
    certifier, known = resolve(name, **params)
    threat = _parsed(threat)
    goal = threat.goal.name
    if not known.serves(threat.perturbations):
        raise UnsupportedError(
            f"no proof: {known.name} serves {', '.join(known.sets)}; got {threat.perturbations.name}.{_others(threat)}"
        )
    if goal not in ("misclassify", "target"):
        raise UnsupportedError(
            f"no proof: certificates serve the goals misclassify and target; got {goal}. Audit without a proof."
        )
    task = _judging(task, model)
    if task.no_proof:
        raise UnsupportedError(f"no proof: {task.no_proof}")
    if not task.plain and goal != "misclassify":
        raise UnsupportedError(
            f"no proof: the goal {threat.goal} names a class, of which {task.name} has none. Certify misclassify."
        )
    labels = _labels(inputs, labels, task)
    limits = box_of("certify", model, inputs, box, batch_size)
    if not isinstance(certifier, Certifier):
        each, key = sizes_of(sizes, threat, inputs, torch.device("cpu")), new_key(generator, seed)
        return certifier.certify(
            model, inputs, labels, threat, each, box=limits, batch_size=batch_size, key=key, task=task
        )
    graph = model if isinstance(model, Graph) else read(model, inputs, maps=task.maps)
    check_kernels(graph)
    reach = sizes_of(sizes, threat, inputs, graph.device)
    around = enclosing(graph, inputs, threat, reach, limits)
    targets = targets_of(graph, labels, threat, task)
    # A target that is the label itself cannot be reached by an attack: nothing is to be proven there.
    rows = torch.arange(len(inputs)) if targets is None else (targets != labels).nonzero()[:, 0].cpu()
    margin = torch.full((len(inputs),), float("nan"), dtype=torch.float64, device=graph.device)
    slack, certified = torch.full_like(margin, float("nan")), torch.zeros_like(margin, dtype=torch.bool)
    inputs, labels = inputs.to(graph.device), labels.to(graph.device)
    falsified = torch.zeros_like(certified) if certifier.refutes else None
    witness = torch.full_like(inputs, torch.nan) if certifier.refutes else None
    for part in rows.split(batch_size or max(1, len(rows))) if len(rows) else ():
        at = part.to(graph.device)
        region = around(at)
        wanted = None if targets is None else targets.to(graph.device)[at]
        if falsified is not None and witness is not None and task.plain:
            broken = Counterexamples(model, inputs[at], labels[at], threat, reach[at], limits, graph.classes)
            bound = certifier.settle(graph, region, labels[at], wanted, task, broken)
            falsified[at], witness[at] = broken.found, broken.points.to(witness)
        else:
            bound = _margins(certifier, graph, region, labels[at], wanted, task)
        margin[at], slack[at] = bound.value, bound.slack
        certified[at] = bound.proven
    return CertificationResult(
        name=known.name,
        certified=certified,
        margin=margin,
        slack=slack,
        seconds=time.perf_counter() - started,
        falsified=falsified,
        witness=witness,
    )


def box_of(
    caller: str, model: nn.Module | Graph, inputs: Tensor, box: Box | tuple[Limit, Limit] | None, batch_size: int | None
) -> Box:
    """Return the box that is given, or the model's own; refuse inputs outside it, and batches of no size."""
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise InputError(f"`batch_size` must be a whole number ≥ 1, or None; got {batch_size!r}")
    limits = box if box is not None else getattr(model, "box", None)
    if limits is None:
        raise InputError(f"{caller} needs the box of valid inputs: wrap the model, or pass box=(low, high)")
    limits = Box.of(limits)
    check_fits(inputs, limits)
    return limits


def enclosing(graph: Graph, inputs: Tensor, threat: Threat, reach: Tensor, limits: Box) -> Callable[[Tensor], Region]:
    """Return what encloses the sets of some of the inputs (B, *F), by their rows: of sizes `reach` (B,) and τ."""
    if threat.perturbations.per_column:
        threat.perturbations.check(limits, tuple(inputs.shape[1:]))
    features = math.prod(inputs.shape[1:])
    radius = threat.perturbations.extent(reach + threat.perturbations.tolerance(limits, features))
    # A search rounds its inputs to the precision that it works in: the proof holds around the inputs and around those.
    working = torch.float64 if graph.dtype == torch.float64 else torch.float32
    placed, norm = inputs.to(graph.device), threat.perturbations.norm
    return lambda rows: Region.around(placed[rows], limits, norm, radius[rows], working)


def targets_of(graph: Graph, labels: Tensor, threat: Threat, task: Task) -> Tensor | None:
    """Return the classes (B,) that a goal wants, None where it wants none; refuse labels that do not fit a network."""
    if task.plain:
        return threat.goal.bind(labels, graph.classes).targets
    task.check_fit(labels, graph.answer)
    if graph.head != len(graph.operations) - 1:
        raise UnsupportedError(
            f"no proof: the network ends in log-softmax, which is bounded for classes alone; the task is {task.name}"
        )
    return None


def _others(threat: Threat) -> str:
    """Say what to do instead of a certifier that does not serve a threat."""
    serving = [row.name for row in CERTIFIERS if row.serves(threat.perturbations)]
    return f" Take {'one of ' * (len(serving) > 1)}{', '.join(serving)}." if serving else " Audit without a proof."


def sizes_of(sizes: Tensor | None, threat: Threat, inputs: Tensor, device: torch.device) -> Tensor:
    """Return the size that each example (B, *F) is proven for, (B,) float64."""
    if sizes is None:
        return torch.full((len(inputs),), threat.perturbations.epsilon, dtype=torch.float64, device=device)
    if not isinstance(sizes, Tensor) or sizes.shape != (len(inputs),) or not bool((sizes >= 0).all()):
        came = f"{tuple(sizes.shape)} {sizes.dtype}" if isinstance(sizes, Tensor) else type(sizes).__name__
        raise InputError(f"`sizes` must be numbers ≥ 0, one for each of the {len(inputs)} inputs; got {came}")
    return sizes.to(device, torch.float64)


def _judging(task: Task | None, model: object) -> Task:
    """Return the task that is given, else the model's own."""
    return parse_task(getattr(model, "task", CLASSIFICATION) if task is None else task).judging()


def _labels(inputs: Tensor, labels: Tensor, task: Task) -> Tensor:
    """Return labels as the task keeps them; refuse what is no labelled batch."""
    checked_inputs(inputs)
    if task.plain:
        return _classes(inputs, labels)
    if not isinstance(labels, Tensor) or labels.shape[:1] != inputs.shape[:1]:
        came = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be a tensor of {len(inputs)} labels, one for each input; got {came}")
    return task.checked_labels(labels)


def checked_inputs(inputs: Tensor) -> None:
    """Refuse what is no batch of inputs."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        came = f"{tuple(inputs.shape)} {inputs.dtype}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise InputError(f"`inputs` must be a float tensor (B, *F); got {came}")


def _classes(inputs: Tensor, labels: Tensor) -> Tensor:
    """Return labels as int64; refuse what is no labelled batch. Eight bits or a bool would index as a mask."""
    kind = labels.dtype if isinstance(labels, Tensor) else torch.bool
    if kind == torch.bool or kind.is_floating_point or kind.is_complex or labels.shape != inputs.shape[:1]:
        came = f"{tuple(labels.shape)} {labels.dtype}" if isinstance(labels, Tensor) else type(labels).__name__
        raise InputError(f"`labels` must be int64 of shape ({len(inputs)},), one class for each input; got {came}")
    labels = labels.to(torch.int64)
    if len(labels) and int(labels.min()) < 0:
        raise InputError(f"`labels` must be classes ≥ 0; got {int(labels.min())}")
    return labels


def _margins(
    certifier: Certifier, graph: Graph, region: Region, labels: Tensor, targets: Tensor | None, task: Task
) -> LowerBound:
    """Bound the smallest margins; in exact arithmetic once more where a coarse precision blurs that bound too."""
    bound = certifier.margins(graph, region, labels, targets, task)
    if all(step.dtype in (torch.float64, torch.float32, None) for step in graph.operations):
        return bound
    rows = (~bound.proven).nonzero()[:, 0]
    if len(rows):
        wanted = None if targets is None else targets[rows]
        exact = certifier.margins(graph.without_rounding(), region.select(rows), labels[rows], wanted, task)
        bound = bound.separate()
        bound.value[rows] = torch.fmax(bound.value[rows], exact.value)
    return bound


def resolve(name: str | Certifier | Sampling, **params: Any) -> tuple[Certifier | Sampling, CertifierRow]:
    """Return a certifier by its registry name, built with `params`, or the one given, with its row.

    Raises      InputError listing the names, or the parameters, that there are.

    >>> resolve("crown", memory=2**20)[1].norms
    ('linf', 'l2', 'l1', 'l0')
    """
    if isinstance(name, str):
        return CERTIFIERS.build(name, **params), CERTIFIERS.find(name)
    if params:
        raise InputError(f"a certifier that is made already takes no parameters; got {', '.join(params)}")
    if (row := CERTIFIERS.row_of(name)) is None:
        raise CERTIFIERS.unknown(name)
    return name, row


def _parsed(threat: Threat | str) -> Threat:
    """Read a threat from its text form, or pass it through."""
    from trustbound.threat.threat import Threat

    return Threat.parse(threat)
