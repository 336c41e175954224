"""Votes of noisy copies of inputs, counted through the oracle in constant memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.metrics.decision import NO_ANSWER, chosen
from trustbound.model.defences.smoothed import Noise, snapped
from trustbound.threat.random import Random

#: Bytes that the noise of one call may hold, in float64.
MEMORY = 2**26


def counted(
    oracle: Oracle, noise: Noise, inputs: Tensor, rows: Tensor, *, draws: int, key: int, stream: str, first: int = 0
) -> Tensor:
    """How many noisy copies of the inputs (B, *F) at `rows` (R,), from draw `first` up to `draws`, get each class.

    Shapes      returns (R, C) int64.

    The noise of a draw is a function of (key, stream, draw) alone: the same for all inputs, whatever the batch size.
    A copy that gets no answer votes for nobody. A call has no more rows than the oracle's batch size.

    >>> from trustbound.model.wrapping import wrap
    >>> inputs, noise = torch.rand(2, 2), Noise(noise_std=0.1)
    >>> with Oracle(wrap(torch.nn.Linear(2, 3)), examples=2) as oracle:
    ...     votes = counted(oracle, noise, inputs, torch.arange(2), draws=50, key=0, stream="a")
    >>> votes.sum(1)
    tensor([50, 50])
    """
    if not len(rows):
        return torch.zeros(0, 0, dtype=torch.int64)
    shape, working = tuple(inputs.shape[1:]), oracle.model.input_dtype
    grain = noise.grain(oracle.model.box, working)
    block = max(1, min(draws - first, oracle.batch_size, MEMORY // (8 * max(1, math.prod(shape)))))
    group = max(1, oracle.batch_size // block)
    votes: Tensor | None = None
    for start in range(first, draws, block):
        ids = torch.arange(start, min(start + block, draws), device=inputs.device)
        moved = noise.of(standard(noise, Random(key, ids).stream(stream), shape), grain).to(working)
        for at in range(0, len(rows), group):
            part = rows[at : at + group]
            placed = snapped(inputs[part], grain).to(working)
            points = (placed.unsqueeze(1) + moved).flatten(0, 1)
            outputs = oracle.outputs(points, part.repeat_interleave(len(ids)))
            if votes is None:
                votes = torch.zeros(len(rows), outputs.shape[1], dtype=torch.int64)
            classes = votes.shape[1]
            prediction = chosen(outputs).reshape(len(part), len(ids)).cpu()
            place = torch.arange(len(part)).unsqueeze(1) * classes + prediction
            told = torch.bincount(place[prediction != NO_ANSWER], minlength=len(part) * classes)
            votes[at : at + group] += told.reshape(len(part), classes)
    assert votes is not None
    return votes


def standard(noise: Noise, random: Random, shape: tuple[int, ...]) -> Tensor:
    """What the noise of each draw is made of, (draws, *shape) float64: standard normal numbers, or uniform ones.

    Normal numbers come in pairs, a radius and an angle (Box and Muller), in float64.

    >>> normal = standard(Noise(noise_std=1.0), Random(0, torch.arange(2000)), (3,))
    >>> abs(float(normal.mean())) < 0.05, abs(float(normal.std()) - 1) < 0.05
    (True, True)
    """
    count = math.prod(shape)
    if noise.kind == "uniform":
        return random.uniform(shape, restart=0, draw=0, dtype=torch.float64)
    pairs = random.uniform((2, (count + 1) // 2), restart=0, draw=0, dtype=torch.float64)
    radius = pairs[:, 0].neg_().log1p_().mul_(-2.0).sqrt_()
    angle = pairs[:, 1].mul_(2.0 * math.pi)
    both = torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)], 1)
    return both[:, :count].reshape(len(random.ids), *shape)
