"""How much faster than its input each value of a network can change: norms of steps, composed along the graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from trustbound.certificates.graph.curves import Smooth
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.operations import Activation, Concatenate, Input, Linear, MaxPool, Operation, Sum
from trustbound.certificates.sensitivity.operator_norms import operator_norm
from trustbound.errors import UnsupportedError

T = TypeVar("T", float, Tensor)


def gains(graph: Graph, norm: str = "l2") -> list[float]:
    """Return for every step how much faster it can change than the input, in a norm; computed once per graph.

    Along a chain norms multiply, sums of branches add, and parts that are laid side by side add in l1, as squares in
    l2, and count by their largest in l∞.

    Raises      UnsupportedError naming the first step that has no Lipschitz constant.

    >>> import torch
    >>> from trustbound.certificates.graph import read
    >>> linear = torch.nn.Linear(2, 2, bias=False)
    >>> _ = torch.nn.init.eye_(linear.weight)
    >>> [round(gain, 6) for gain in gains(read(torch.nn.Sequential(linear, torch.nn.Sigmoid()), torch.rand(1, 2)))]
    [1.0, 1.0, 0.25]
    """
    stored = graph.cache.get(f"gains in {norm}")
    if isinstance(stored, list):
        return stored
    found: list[float] = []
    for step, own in zip(graph.operations, norms(graph, norm), strict=True):
        before = [found[source] for source in step.sources]
        found.append(1.0 if isinstance(step, Input) else stretched(step, own, before, norm))
    graph.cache[f"gains in {norm}"] = found
    return found


def norms(graph: Graph, norm: str = "l2") -> list[float]:
    """Return the operator norm of every linear step with one operand, 1 for the others; computed once per graph."""
    stored = graph.cache.get(f"norms in {norm}")
    if isinstance(stored, list):
        return stored
    found = []
    for step in graph.operations:
        own = None
        if isinstance(step, Linear):
            own = operator_norm(step, graph.operations[step.sources[0]].shape, norm)
        found.append(1.0 if own is None else own)
    graph.cache[f"norms in {norm}"] = found
    return found


def stretched(step: Operation, own: float, before: Sequence[T], norm: str = "l2") -> T:
    """Return how far a step, of operator norm `own`, carries distances of its operands, numbers or tensors."""
    if isinstance(step, Sum):
        return before[0] * abs(step.signs[0]) + before[1] * abs(step.signs[1])
    if isinstance(step, Concatenate):
        return _beside(before, norm)
    if isinstance(step, Linear) and len(before) == 1:
        return before[0] * own
    return before[0] * steepness(step, norm)


def steepness(step: Operation, norm: str = "l2") -> float:
    """Return how far a step that is not linear carries distances of its operand.

    A max pool never moves further than the largest of its inputs; one input can stand in several windows that overlap.

    Raises      UnsupportedError naming a step that has no Lipschitz constant.
    """
    if isinstance(step, MaxPool):
        return {"l2": math.sqrt(step.overlap), "l1": float(step.overlap), "linf": 1.0}[norm]
    if isinstance(step, Activation):
        return max(1.0, step.slope)
    if isinstance(step, Smooth):
        return step.curve.steepness
    raise UnsupportedError(
        f"no Lipschitz constant: {step.where} is no linear step, pool or activation of each number. Products of two "
        "values that depend on the input, as in dot-product attention, have none (Kim et al. 2021, arXiv:2006.04710), "
        "and norms over features none that is known here; replace the layer, or use crown"
    )


def _beside(before: Sequence[T], norm: str) -> T:
    """Return how far parts laid side by side move, each as far as it may."""
    parts = [part * part for part in before] if norm == "l2" else list(before)
    total = parts[0]
    for part in parts[1:]:
        total = max(total, part) if norm == "linf" else total + part
    return total**0.5 if norm == "l2" else total
