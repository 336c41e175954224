"""The l1 ball: the absolute changes add up to at most ε."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.threat.neighbourhood import AdditiveNeighbourhood
from trustbound.threat.random import Random

_INWARD = 1.0 - 2.0**-21


@dataclass(frozen=True, kw_only=True, eq=False)
class L1Neighbourhood(AdditiveNeighbourhood):
    """l1 ball ∩ box. `sparsity` is the share of coordinates that one steepest step moves.

    >>> from trustbound.threat import NormBall
    >>> ball = NormBall("l1", 1.0).around(torch.zeros(1, 2), (0.0, 1.0))
    >>> ball.project(torch.tensor([[0.9, 0.5]])).round(decimals=3)
    tensor([[0.7000, 0.3000]])
    """

    norm: ClassVar[str] = "l1"

    sparsity: float = 0.01

    def start(self, random: Random, restart: int) -> Tensor:
        """Uniform in the ball (normalised exponentials with signs), then projected onto the box."""
        shape = tuple(self.inputs.shape[1:])
        weights = -torch.log1p(-random.uniform(shape, restart=restart, draw=0, dtype=torch.float64))
        signs = random.integers(2, shape, restart=restart, draw=1) * 2 - 1
        share = random.uniform((1,), restart=restart, draw=2, dtype=torch.float64)[:, 0]
        features = self.inputs[0].numel()
        length = self.radius.clamp(max=features * _width(self)) * share ** (1.0 / features)
        direction = (weights * signs).flatten(1)
        direction = direction / direction.abs().sum(dim=1, keepdim=True)
        change = (direction * length[:, None]).reshape(self.inputs.shape).to(self.inputs.dtype)
        return self.project(self.inputs + change)

    def project(self, theta: Tensor, radius: Tensor | None = None) -> Tensor:
        """Exact projection: soft-threshold, each coordinate stopped by the box.

        |yᵢ − xᵢ| = min(max(|δᵢ| − λ, 0), roomᵢ): the sum is piecewise linear and falling in λ with corners at
        |δᵢ| and |δᵢ| − roomᵢ; the corners are sorted and the right piece solved, in float64.
        Reference   Croce and Hein, Mind the box: l1-APGD, ICML 2021 (Proposition 2.2).
        """
        reach = self.radius if radius is None else radius
        clipped = theta.clamp(self.low, self.high)
        flat = (clipped - self.inputs).flatten(1).to(torch.float64)
        outside = flat.abs().sum(dim=1) > reach * _INWARD
        if not bool(outside.any()):
            return clipped
        rows = outside.nonzero()[:, 0]
        start = self.inputs[rows].to(torch.float64)
        wish = (theta[rows].to(torch.float64) - start).flatten(1)
        room = torch.where(wish > 0, (self.high - start).flatten(1), (start - self.low).flatten(1))
        length = _thresholded(wish.abs(), room, reach[rows] * _INWARD)
        moved = (start + (wish.sign() * length).reshape(start.shape)).to(theta.dtype)
        clipped[rows] = moved.clamp_(self.low, self.high)
        return clipped

    def steepest(self, theta: Tensor, gradient: Tensor) -> Tensor:
        """Equal steps on the free coordinates of largest slope, l1 length 1.

        The exact steepest direction moves one coordinate; a share of them is moved as in SLIDE.
        Reference   Tramèr and Boneh, Adversarial training and robustness for multiple perturbations, 2019.
        """
        flat = self.free(theta, gradient).flatten(1)
        count = max(1, math.ceil(self.sparsity * flat.shape[1]))
        values, places = flat.abs().topk(count, dim=1)
        steps = torch.gather(flat, 1, places).sign() / (values > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return torch.zeros_like(flat).scatter_(1, places, steps).reshape(gradient.shape)

    def norm_of(self, change: Tensor) -> Tensor:
        """Sum of absolute coordinates."""
        return change.abs().sum(dim=1)


def _thresholded(wish: Tensor, room: Tensor, reach: Tensor) -> Tensor:
    """min(max(wish − λ, 0), room) with the λ ≥ 0 at which the sum is `reach`; all (b, D), float64."""
    corners, order = torch.cat([wish, wish - room], dim=1).sort(dim=1, descending=True)
    change = torch.cat([torch.ones_like(wish), -torch.ones_like(wish)], dim=1).gather(1, order)
    slope = change.cumsum(dim=1)  # coordinates in motion below each corner
    gaps = corners[:, :-1] - corners[:, 1:]
    totals = torch.cat([torch.zeros_like(reach)[:, None], (slope[:, :-1] * gaps).cumsum(dim=1)], dim=1)
    piece = (totals <= reach[:, None]).sum(dim=1, keepdim=True) - 1
    corner, total, active = (values.gather(1, piece)[:, 0] for values in (corners, totals, slope))
    threshold = (corner - (reach - total) / active.clamp(min=1.0)).clamp(min=0.0)
    return torch.minimum((wish - threshold[:, None]).clamp(min=0.0), room)


def _width(ball: AdditiveNeighbourhood) -> float:
    return float((ball.high - ball.low).max())
