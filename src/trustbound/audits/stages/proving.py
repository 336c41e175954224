"""Which certifiers can serve an audit, and on how many examples at a time."""

from __future__ import annotations

import math

from trustbound.audits.stages.context import Context
from trustbound.audits.work_units.subject import Subject
from trustbound.certificates.graph import Graph
from trustbound.certificates.graph.matrix_operations import Convolution, Dense
from trustbound.certificates.graph.normalisation import Softmax
from trustbound.certificates.graph.operations import Activation, Input, Linear
from trustbound.certificates.methods.tree_reading import NO_TREES
from trustbound.certificates.registry import CERTIFIERS
from trustbound.model.defences.ablated import Ablated
from trustbound.threat import Misclassify, Target, Threat

#: Activations up to which backward bounds are worth their memory and time, by budget.
ACTIVATIONS = {"quick": 8_000, "standard": 40_000, "thorough": 400_000, "autoattack": 40_000}

#: Rows of a map, one for each pixel and other class, up to which going back from each is worth it.
MAPS = {"quick": 512, "standard": 512, "thorough": 8_192, "autoattack": 512}

#: The same as of activations for tighter proofs, of what the others leave open; a budget that is not named runs none.
TIGHTER = {
    "alpha-crown": {"standard": 2_000, "thorough": 40_000},
    "branch-and-bound": {"standard": 600, "thorough": 20_000},
}

#: Examples × squared activations of a work unit that goes back from each of them: about ten seconds on one core. Six
#: multiplications with a requirement's rows take as long as one of these.
AT_ONCE, MULTIPLICATIONS = 1 << 32, 6

#: A difference of two numbers under a softmax, whose exponentials limit its shares, takes as long as so many of these.
DIFFERENCES = 32

#: Seconds that these take, about.
SECONDS_AT_ONCE = 10.0

#: How many times the work of `crown` an example takes in these, about, and the least on a network however small.
DEARER = {"alpha-crown": 8, "branch-and-bound": 64, "parameter-splitting": 64}
LEAST = {"branch-and-bound": AT_ONCE >> 4}

#: Examples of a first block of proofs, and of a sample of radii, however dear they are.
LEAST_BLOCK, LEAST_SAMPLE = 8, 4

#: Examples of a sample of radii at most; bounds of each at most; seconds of bounds that need no reason.
SAMPLE, BOUNDS, SHORT = 16, 4, 30.0

#: Examples of a work unit of proofs about trees, each of which has a time of its own.
TREES_AT_ONCE = 16


def certifiers(subject: Subject, threat: Threat, budget: str) -> tuple[list[str], str]:
    """The certifiers that serve a threat, by name, cheapest first; and what was left out, in words."""
    if isinstance(subject.model.module, Ablated):
        return _of_votes(threat)
    graph, refusal = subject.readable.graph, subject.readable.refusal
    if graph is None and subject.model.shows == "gradients":
        return [], refusal
    if not isinstance(threat.goal, Misclassify | Target):
        return [], f"no proof: the goal {threat.goal} has no certifier yet"
    if graph is None:
        return _of_trees(subject, threat, refusal)
    kept: list[str] = []
    left: list[str] = []
    units = activations(graph)
    for row in CERTIFIERS:
        if not row.serves(threat.perturbations) or not row.reads:
            continue
        if not row.audited:
            if (
                _rows_of_map(graph) <= MAPS[budget]
                and _has_slopes(graph)
                and units <= TIGHTER.get(row.name, {}).get(budget, -1)
            ):
                kept.append(row.name)
            continue
        if row.quadratic and (rows := _rows_of_map(graph)) > MAPS[budget]:
            left.append(f"{row.name} left out: {rows} rows of a map exceed {MAPS[budget]} of this budget")
            continue
        if row.quadratic and units > ACTIVATIONS[budget]:
            left.append(f"{row.name} left out: {units} activations exceed {ACTIVATIONS[budget]} of this budget")
            continue
        kept.append(row.name)
    if not kept and not left:
        left.append(f"no proof: no certifier serves {threat.perturbations.name}")
    return kept, "; ".join(left)


def _of_votes(threat: Threat) -> tuple[list[str], str]:
    """The certifier of models that vote over ablated pictures."""
    if not CERTIFIERS.find("ablation").serves(threat.perturbations):
        return [], f"no proof: no certifier serves {threat.perturbations.name}, of votes over ablated pictures"
    if not isinstance(threat.goal, Misclassify):
        return [], f"no proof: the goal {threat.goal} has no certifier yet, of votes over ablated pictures"
    return ["ablation"], ""


def _of_trees(subject: Subject, threat: Threat, refusal: str) -> tuple[list[str], str]:
    """The certifier of tree ensembles, of a predictor that is one."""
    if why := subject.trees:
        return [], refusal if why == NO_TREES else why
    if not CERTIFIERS.find("trees").serves(threat.perturbations):
        return [], f"no proof: no certifier serves {threat.perturbations.name}, of trees"
    return ["trees"], ""


def activations(graph: Graph) -> int:
    """How many numbers of an example a backward bound may have to ask about: those that steps that are bent take."""
    return sum(step.features for step in graph.operations if not isinstance(step, Linear | Input))


def _rows_of_map(graph: Graph) -> int:
    """How many differences of logits a proof about all pixels of a map is about; 0 where no map is given."""
    return 0 if graph.maps is None else graph.classes - math.prod(graph.maps[1:])


def _has_slopes(graph: Graph) -> bool:
    """Say whether there is a ReLU, whose slope tighter proofs choose and whose sign they split."""
    return any(isinstance(step, Activation) for step in graph.operations)


def at_least(subject: Subject, method: str) -> int:
    """Examples of the first block of proofs: some ten seconds of them, at least 8; all where they are cheap."""
    graph, quadratic = subject.readable.graph, CERTIFIERS.find(method).quadratic
    if not CERTIFIERS.find(method).reads:
        return 4 * TREES_AT_ONCE
    if graph is None or not quadratic:
        return len(subject.data)
    return max(LEAST_BLOCK, AT_ONCE // _work(graph, method))


def sampled(subject: Subject, method: str) -> int:
    """Examples whose radii are asked first: about as many seconds of bounds, 4 to 16."""
    most = math.floor(SECONDS_AT_ONCE / (BOUNDS * max(estimated(subject, method), 1e-9)))
    return min(SAMPLE, max(LEAST_SAMPLE, most))


def long(subject: Subject, method: str, examples: int) -> bool:
    """Say whether radii of so many examples take long enough that they must move the curve to be worth it."""
    return estimated(subject, method) * BOUNDS * examples > SHORT


def estimated(subject: Subject, method: str) -> float:
    """About how many seconds one example takes, before any was tried; 0 of certifiers that do not go back."""
    graph, quadratic = subject.readable.graph, CERTIFIERS.find(method).quadratic
    if graph is None or not quadratic:
        return 0.0
    return SECONDS_AT_ONCE * _work(graph, method) / AT_ONCE


def at_once(context: Context, method: str, count: int) -> int:
    """Examples of a unit of proofs: few enough that a unit that is killed costs seconds, many where they are cheap.

    Parameters
        count       examples in all, which are cut evenly.
    """
    graph = context.subject.readable.graph
    if not CERTIFIERS.find(method).reads:
        return min(context.unit_size, TREES_AT_ONCE)
    if graph is None:
        return context.unit_size
    most = max(1, min(context.unit_size, AT_ONCE // _work(graph, method)))
    if most == context.unit_size and not CERTIFIERS.find(method).quadratic:
        return most
    return math.ceil(count / max(1, math.ceil(count / most)))


def _work(graph: Graph, method: str) -> int:
    """What one example asks, in squared activations: the units that are asked about, or a row for each other answer.

    The rows of a requirement go back through every matrix, or, where only ranges are told, through the last one; of a
    softmax all differences of numbers that share are asked about.
    """
    quadratic = CERTIFIERS.find(method).quadratic
    sizes = [
        step.weight.numel() * step.features // len(step.weight)
        for step in graph.operations
        if isinstance(step, Dense | Convolution)
    ]
    rows = max(1, graph.classes - 1) * (sum(sizes) if quadratic else sum(sizes[-1:])) // MULTIPLICATIONS
    shares = sum(step.features * step.shape[-1] for step in graph.operations if isinstance(step, Softmax))
    asked = max(1, rows, DIFFERENCES * shares, activations(graph) ** 2 if quadratic else 0)
    return max(asked * DEARER.get(method, 1), LEAST.get(method, 0))
