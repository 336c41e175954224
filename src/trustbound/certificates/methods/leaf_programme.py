"""A domain in which no ReLU is left to split is a linear programme: its dual solution is the best multipliers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Operation, Scale
from trustbound.certificates.methods.domains import Domains, Tree
from trustbound.certificates.methods.relaxations import LinearRelaxation


def solve(tree: Tree, leaf: Domains) -> tuple[Domains, Tensor | None]:
    """Return a leaf (one domain, every neuron split) with its linear programme's multipliers, and where it is least.

    The solver is not believed: any multipliers ≥ 0 give a sound bound, and the point is only tried. Of an empty leaf
    there is no point, and the multipliers are those of a contradiction between its signs, large enough for any bound.
    """
    from scipy.optimize import linprog

    if not tree.neurons:
        return leaf, None
    matrix, offsets, row, constant = _affine(tree, leaf)
    signs = leaf.signs[0].double().cpu().numpy()
    region = tree.network.region
    low, high = (limit.flatten().cpu().numpy() for limit in (region.low, region.high))
    sides, ends = -signs[:, None] * matrix, signs * offsets
    found = linprog(row, A_ub=sides, b_ub=ends, bounds=np.stack([low, high], 1), method="highs")
    if found.status == 0:
        point = torch.as_tensor(found.x, device=leaf.row.device).reshape(region.inputs.shape)
        return _with(leaf, -found.ineqlin.marginals), point
    if found.status != 2:
        return leaf, None
    # How far the signs must give way: the duals weigh them so that together they exceed zero everywhere.
    wide = np.hstack([sides, -np.ones((len(sides), 1))])
    bounds = np.vstack([np.stack([low, high], 1), [-1.0, np.inf]])
    aim = np.append(np.zeros(len(low)), 1.0)
    way = linprog(aim, A_ub=wide, b_ub=ends, bounds=bounds, method="highs")
    if way.status != 0 or not way.fun > 0:
        return leaf, None
    least = constant + row @ (low + high) / 2 - np.abs(row) @ (high - low) / 2
    return _with(leaf, -way.ineqlin.marginals * 2 * (1 + max(0.0, -least)) / way.fun), None


def _with(leaf: Domains, multipliers: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Domains:
    """Return a leaf with other multipliers, in float64."""
    found = torch.as_tensor(multipliers, device=leaf.row.device)
    return replace(leaf, multipliers=found.clamp(min=0.0).unsqueeze(0))


def _affine(
    tree: Tree, leaf: Domains
) -> tuple[
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    float,
]:
    """Return the operands of all split neurons and the row as affine functions of the flat input: Z, z₀, c, c₀."""
    steps = _linear_steps(tree, leaf.signs)
    shape = tree.network.region.inputs.shape[1:]
    count = tree.network.region.inputs[0].numel()
    row = tree.rows[leaf.row[0]]

    def at(points: Tensor) -> Tensor:
        values: list[Tensor] = []
        for step in steps:
            values.append(step.apply(*([points] if not step.sources else [values[source] for source in step.sources])))
        read = [values[steps[index].sources[0]].flatten(1)[:, places] for index, places, _ in tree.places]
        return torch.cat([*read, (values[-1] @ row).unsqueeze(1)], 1)

    origin = at(row.new_zeros(1, *shape))
    units = torch.eye(count, dtype=row.dtype, device=row.device).reshape(count, *shape).split(64)
    columns = (torch.cat([at(part) for part in units]) - origin).T.cpu().numpy()
    constants = origin[0].cpu().numpy()
    return columns[:-1], constants[:-1], columns[-1], float(constants[-1])


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
