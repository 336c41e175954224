"""ReLU networks whose float32 arithmetic is exact, so that equal inputs give equal bits in any batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trustbound.errors import InputError
from trustbound.model.wrapping import Model, wrap
from trustbound.record.box import Box, Limit

#: Whole numbers up to 2^24 are exact in float32.
MANTISSA = 24


def dyadic_network(
    *,
    input_shape: Sequence[int] = (1, 8, 8),
    widths: Sequence[int] = (32,),
    channels: Sequence[int] = (),
    classes: int = 10,
    grid: int = 10,
    box: Box | tuple[Limit, Limit] = (0.0, 1.0),
    seed: int = 0,
) -> Model:
    """A network of small whole weights times powers of two, in eval mode.

    Exact for   inputs that are multiples of 2^-grid inside the box, e.g. [0, 1] and 2^-10; or 8-bit values as
                whole numbers with box=(0, 255), grid=0. *Not* for k / 255, which is no binary fraction.
    Why         every value is a whole multiple of one power of two per layer. A row of whole weights with
                Σ|w| + 1 ≤ A (the 1 is the bias) makes whole numbers up to A · M out of ones up to M, and so do
                all partial sums in any order. A = ⌊(2^24 / M_0)^(1/layers)⌋ keeps every layer below 2^24, where
                float32 holds whole numbers exactly: no sum rounds, so its order cannot matter.
    Backward    exact too for losses whose logit gradient is a small whole number (margins): see `exact_bits`.
    Limits      the CPU, or devices with TensorFloat-32 switched off.
    Architecture  optional 4×4 convolutions of stride 2, then hidden layers, ReLU after each; all rows differ.
    Raises      InputError when the layers leave no room for at least 2 weights in a row.

    >>> model = dyadic_network(seed=1)
    >>> x = torch.randint(0, 1025, (100, 1, 8, 8)) / 1024
    >>> torch.equal(model(x)[:7], model(x[:7])), torch.equal(model(x), model.double()(x.double()).float())
    (True, True)
    """
    box = Box.of(box)
    largest = float(np.max(np.abs([np.min(box.low), np.max(box.high)])))
    layers = len(channels) + len(widths) + 1
    budget = int((2**MANTISSA / (largest * 2**grid)) ** (1 / layers) + 1e-9)
    if budget < 3:
        raise InputError(
            f"{layers} layers on a grid of 2^-{grid} leave rows of Σ|w| ≤ {budget - 1} in {MANTISSA} bits; "
            "at least 2 is needed. Use fewer layers or a coarser grid."
        )
    random = np.random.default_rng(seed)
    size, step, bound = tuple(input_shape), grid, largest * 2**grid
    modules: list[nn.Module] = []
    layer: nn.Conv2d | nn.Linear
    for before, after in pairwise((size[0], *channels)) if channels else ():
        layer = nn.Conv2d(before, after, 4, stride=2, padding=1)
        step, bound = _fill(layer, budget, step, bound, random)
        modules += [layer, nn.ReLU()]
        size = (after, size[1] // 2, size[2] // 2)
    modules.append(nn.Flatten())
    for before, after in pairwise((math.prod(size), *widths, classes)):
        layer = nn.Linear(before, after)
        step, bound = _fill(layer, budget, step, bound, random)
        modules += [layer, nn.ReLU()]
    return wrap(
        nn.Sequential(*modules[:-1]).eval(),
        box=box,
        name="dyadic network",
        input_shape=tuple(input_shape),
        classes=classes,
    )


def _fill(
    layer: nn.Conv2d | nn.Linear, budget: int, step: int, bound: float, random: np.random.Generator
) -> tuple[int, float]:
    """Set whole weights · 2^-shift; returns the new grid exponent and the largest whole number."""
    rows = _distinct_rows(layer.weight.shape[0], layer.weight[0].numel(), budget - 1, random)
    # Powers of two keep activations near 1 without costing a bit.
    shift = max(0, round(math.log2(math.sqrt(float((rows**2).sum(1).mean())))))
    ceiling = max(1, int(bound) // 4)
    bias = random.integers(-ceiling, ceiling + 1, len(rows))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(rows).reshape(layer.weight.shape) * 2.0**-shift)
        assert layer.bias is not None
        layer.bias.copy_(torch.from_numpy(bias) * 2.0 ** -(step + shift))
    return step + shift, float(np.abs(rows).sum(1).max()) * bound + float(np.abs(bias).max())


def _distinct_rows(count: int, fan_in: int, total: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Rows of whole numbers in -3..3 with Σ|w| ≤ total, no two alike."""
    seen: set[bytes] = set()
    rows: list[NDArray[np.int64]] = []
    for _ in range(20 * count + 1000):
        sizes = random.integers(1, 4, fan_in)
        sizes = sizes[np.cumsum(sizes) <= total]
        if len(sizes) == 0:
            sizes = np.ones(1, dtype=np.int64)
        row = np.zeros(fan_in, dtype=np.int64)
        places = random.choice(fan_in, size=len(sizes), replace=False)
        row[places] = sizes * random.choice([-1, 1], len(sizes))
        if row.tobytes() not in seen:
            seen.add(row.tobytes())
            rows.append(row)
            if len(rows) == count:
                return np.stack(rows)
    raise InputError(f"{count} different rows of {fan_in} weights with Σ|w| ≤ {total} do not exist")


def exact_bits(model: Model, grid: int = 10) -> tuple[int, int]:
    """Bits that the forward and the backward pass of a dyadic network need; exact while both are ≤ 24.

    Forward     whole numbers after each layer are at most max row Σ|w| · M + max |b|, M the bound before it.
    Backward    from a logit gradient in {-1, 0, 1}: at most max column Σ|w| · G after each layer.

    The bounds are computed from the weights as they stand, not from how they were drawn.

    >>> forward, backward = exact_bits(dyadic_network(seed=3))
    >>> forward <= 24 and backward <= 24
    True
    """
    step = grid
    low, high = np.min(model.box.low), np.max(model.box.high)
    forward = float(max(abs(low), abs(high))) * 2**grid
    columns: list[float] = []
    worst = forward
    for layer in model.module.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        weight = layer.weight.detach().double()
        shift = _exponent(weight)
        whole = (weight * 2.0**shift).abs()
        step += shift
        assert layer.bias is not None
        bias = float((layer.bias.detach().double() * 2.0**step).abs().max())
        forward = float(whole.flatten(1).sum(1).max()) * forward + bias
        worst = max(worst, forward)
        columns.append(float(whole.sum(0).max() if whole.dim() == 2 else whole.sum((0, 2, 3)).max()))
    backward = math.prod(columns)
    return math.ceil(math.log2(worst)), math.ceil(math.log2(max(backward, 1.0)))


def _exponent(weight: torch.Tensor) -> int:
    """The least s ≥ 0 that makes every weight · 2^s whole."""
    for shift in range(64):
        scaled = weight * 2.0**shift
        if bool((scaled == scaled.round()).all()):
            return shift
    raise InputError("the weights are no binary fractions: this is no dyadic network")
