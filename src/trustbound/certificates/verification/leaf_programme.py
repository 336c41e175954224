"""A domain in which no ReLU is left to split is a linear programme: its dual solution is the best multipliers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Operation, Scale
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.verification.domains import Domains, Tree


def solve(tree: Tree, leaf: Domains, rows: Tensor | None = None) -> tuple[Domains, Tensor | None, Tensor]:
    """Return a leaf (one domain, every neuron split) with its linear programme's multipliers, and where it is least.

    The third part is the row (C,) that they belong to: the leaf's own, or of several `rows` (R, C) the convex
    combination whose least value is largest, which is the smallest value of the largest of them.

    The solver is not believed: any multipliers ≥ 0 give a sound bound, and the point is only tried. Of an empty leaf
    there is no point, and the multipliers are those of a contradiction between its signs, large enough for any bound.
    """
    from scipy.optimize import linprog

    chosen = tree.rows[leaf.row] if rows is None else rows
    matrix, offsets, aims, constants = _affine(tree, leaf, chosen)
    row, constant = aims[0], float(constants[0])
    signs = leaf.signs[0].double().cpu().numpy()
    region = tree.network.region
    low, high = (limit.flatten().cpu().numpy() for limit in (region.low, region.high))
    sides, ends = -signs[:, None] * matrix, signs * offsets
    # The smallest t that no row exceeds: its duals weigh the rows.
    below = np.hstack([np.vstack([sides, aims]), np.append(np.zeros(len(sides)), -np.ones(len(aims)))[:, None]])
    limits = np.vstack([np.stack([low, high], 1), [-np.inf, np.inf]])
    ceiling = np.append(np.zeros(len(low)), 1.0)
    found = linprog(ceiling, A_ub=below, b_ub=np.append(ends, -constants), bounds=limits, method="highs")
    if found.status == 0:
        point = torch.as_tensor(found.x[:-1], device=leaf.row.device).reshape(region.inputs.shape)
        duals = -found.ineqlin.marginals
        weights = torch.as_tensor(duals[len(sides) :], device=leaf.row.device).clamp(min=0.0)
        return _with(leaf, duals[: len(sides)]), point, weights / weights.sum() @ chosen
    if found.status != 2 or not tree.neurons:
        return leaf, None, chosen[0]
    # How far the signs must give way: the duals weigh them so that together they exceed zero everywhere.
    wide = np.hstack([sides, -np.ones((len(sides), 1))])
    bounds = np.vstack([np.stack([low, high], 1), [-1.0, np.inf]])
    aim = np.append(np.zeros(len(low)), 1.0)
    way = linprog(aim, A_ub=wide, b_ub=ends, bounds=bounds, method="highs")
    if way.status != 0 or not way.fun > 0:
        return leaf, None, chosen[0]
    least = constant + row @ (low + high) / 2 - np.abs(row) @ (high - low) / 2
    return _with(leaf, -way.ineqlin.marginals * 2 * (1 + max(0.0, -least)) / way.fun), None, chosen[0]


def _with(leaf: Domains, multipliers: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Domains:
    """Return a leaf with other multipliers, in float64."""
    found = torch.as_tensor(multipliers, device=leaf.row.device)
    return replace(leaf, multipliers=found.clamp(min=0.0).unsqueeze(0))


def _affine(
    tree: Tree, leaf: Domains, rows: Tensor
) -> tuple[
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
]:
    """Return the operands of all split neurons and the rows as affine functions of the flat input: Z, z₀, C, c₀."""
    steps = _linear_steps(tree, leaf.signs)
    shape = tree.network.region.inputs.shape[1:]
    count = tree.network.region.inputs[0].numel()

    def at(points: Tensor) -> Tensor:
        values: list[Tensor] = []
        for step in steps:
            values.append(step.apply(*([points] if not step.sources else [values[source] for source in step.sources])))
        read = [values[steps[index].sources[0]].flatten(1)[:, places] for index, places, _ in tree.places]
        return torch.cat([*read, values[-1] @ rows.T], 1)

    origin = at(rows.new_zeros(1, *shape))
    units = torch.eye(count, dtype=rows.dtype, device=rows.device).reshape(count, *shape).split(64)
    columns = (torch.cat([at(part) for part in units]) - origin).T.cpu().numpy()
    constants = origin[0].cpu().numpy()
    last = len(columns) - len(rows)
    return columns[:last], constants[:last], columns[last:], constants[last:]


def _linear_steps(tree: Tree, signs: Tensor) -> list[Operation]:
    """Return the steps of the network with every activation as the line that it is on the leaf."""
    found = tree.relaxed(tree.network, signs)
    steps: list[Operation] = []
    for index, step in enumerate(tree.network.graph.operations):
        line = found.relaxations.get(index)
        if isinstance(step, Activation) and isinstance(line, LinearRelaxation):
            steps.append(Scale(sources=step.sources, shape=step.shape, scale=line.above[0]))
        else:
            steps.append(step)
    return steps
