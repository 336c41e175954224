"""Models whose true robust radius is known, against which attacks and proofs are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import Model, wrap
from trustbound.record.box import Box, Limit

Radius = Callable[[Tensor, Tensor, str, "Box | None"], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactModel:
    """A model under test together with the distance to its nearest error.

    norms       the norms for which the distance is known without a box.
    boxed       the norms for which it is known inside the model's box too.

    >>> exact = linear_classifier(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.zeros(2))
    >>> exact.exact_radius(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), "linf")
    tensor([0.4000], dtype=torch.float64)
    """

    model: Model
    norms: tuple[str, ...]
    boxed: tuple[str, ...]
    distance: Radius

    def exact_radius(self, inputs: Tensor, labels: Tensor, norm: str, *, inside_box: bool = False) -> Tensor:
        """(B,) float64: the infimum of the sizes of perturbations that reach another class.

        With `inside_box` only perturbations that stay in the model's box count; inf where there is none. At the
        radius itself two logits are equal. 0 where the label is already not the only best one.

        Raises      UnsupportedError for a norm in which no closed form is known.
        """
        known = self.boxed if inside_box else self.norms
        if norm not in known:
            where = " inside the box" if inside_box else ""
            raise UnsupportedError(
                f"the exact {norm} radius{where} of {self.model.name} has no closed form here; "
                f"known: {', '.join(known) or 'none'}"
            )
        return self.distance(inputs.double(), labels, norm, self.model.box if inside_box else None)


class LinearLogits(nn.Module):
    """Logits W x + b of flattened inputs."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            self.linear.bias.copy_(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, C)."""
        logits: Tensor = self.linear(self.flatten(inputs))
        return logits


class CentreLogits(nn.Module):
    """Logits -‖x - c‖² for each centre c: the nearest centre wins."""

    centres: Tensor

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.register_buffer("centres", centres)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, C)."""
        return -(inputs.flatten(1)[:, None] - self.centres).square().sum(2)


class ShellLogits(nn.Module):
    """Logits (ρ² - ‖x - c‖², 0): class 0 inside the sphere, class 1 outside."""

    centre: Tensor

    def __init__(self, centre: Tensor, radius: float) -> None:
        super().__init__()
        self.register_buffer("centre", centre)
        self.radius = radius

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, 2)."""
        inside = self.radius**2 - (inputs.flatten(1) - self.centre).square().sum(1)
        return torch.stack((inside, torch.zeros_like(inside)), 1)


def linear_classifier(weight: Any, bias: Any = None, *, box: Box | tuple[Limit, Limit] = (0.0, 1.0)) -> ExactModel:
    """A linear classifier; its radius is known in l∞, l2, l1 and l0, with and without the box.

    Formula     without a box: min over j ≠ y of (z_y - z_j) / ‖w_y - w_j‖*, dual norm; l0: 1 where any weight
                differs. Inside a box each is a sorted sum (`_boxed`), exact up to float64 rounding.
    Shapes      weight (C, F), bias (C,).
    """
    weight = torch.as_tensor(weight, dtype=torch.float32)
    bias = torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias, dtype=torch.float32)
    if weight.dim() != 2 or len(weight) < 2 or bias.shape != weight.shape[:1]:
        raise InputError(
            f"`weight` must have shape (C, F), C ≥ 2, and `bias` (C,); "
            f"got {tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    norms = ("linf", "l2", "l1", "l0")
    return ExactModel(
        model=wrap(LinearLogits(weight, bias), box=box, name="linear classifier", classes=len(weight)),
        norms=norms,
        boxed=norms,
        distance=_of_half_spaces(weight.double(), bias.double()),
    )


def centre_classifier(centres: Any, *, box: Box | tuple[Limit, Limit] = (0.0, 1.0)) -> ExactModel:
    """The nearest of several centres wins; every boundary is a hyperplane though no logit is linear.

    Formula     z_y - z_j = 2 (c_y - c_j)·x - ‖c_y‖² + ‖c_j‖²: the linear classifier with weights 2 c and biases
                -‖c‖², so all its radii hold. In l2 without a box the radius is
                min over j of (‖x - c_j‖² - ‖x - c_y‖²) / (2 ‖c_y - c_j‖).
    Shapes      centres (C, F), all different.
    """
    centres = torch.as_tensor(centres, dtype=torch.float32)
    if centres.dim() != 2 or len(centres) < 2 or len(torch.unique(centres, dim=0)) != len(centres):
        raise InputError(f"`centres` must be at least 2 different points (C, F); got {tuple(centres.shape)}")
    exact = centres.double()
    norms = ("linf", "l2", "l1", "l0")
    return ExactModel(
        model=wrap(CentreLogits(centres), box=box, name="centre classifier", classes=len(centres)),
        norms=norms,
        boxed=norms,
        distance=_of_half_spaces(2.0 * exact, -exact.square().sum(1)),
    )


def sphere_classifier(centre: Any, radius: float, *, box: Box | tuple[Limit, Limit] = (0.0, 1.0)) -> ExactModel:
    """Class 0 inside a sphere, class 1 outside; the l2 radius without the box is |ρ - ‖x - c‖|.

    Inside a box the radius is at least that, and no closed form is offered.
    """
    centre = torch.as_tensor(centre, dtype=torch.float32).flatten()
    if not radius > 0:
        raise InputError(f"`radius` must be positive; got {radius}")
    exact = centre.double()

    def distance(inputs: Tensor, labels: Tensor, norm: str, box: Box | None) -> Tensor:
        gap = radius - torch.linalg.vector_norm(inputs.flatten(1) - exact, dim=1)
        return torch.where(labels == 0, gap, -gap).clamp(min=0.0)

    return ExactModel(
        model=wrap(ShellLogits(centre, float(radius)), box=box, name="sphere classifier", classes=2),
        norms=("l2",),
        boxed=(),
        distance=distance,
    )


def _of_half_spaces(weight: Tensor, bias: Tensor) -> Radius:
    def distance(inputs: Tensor, labels: Tensor, norm: str, box: Box | None) -> Tensor:
        points = inputs.flatten(1)
        logits = points @ weight.T + bias
        rows = torch.arange(len(points))
        margin = logits[rows, labels][:, None] - logits  # (B, C): how far each other class is behind
        towards = weight - weight[labels][:, None]  # (B, C, F): the direction in which it catches up
        if box is None:
            found = _unboxed(margin, towards, norm)
        else:
            found = _boxed(margin, towards, _room(points, towards, box, inputs.shape[1:]), norm)
        found = torch.where(margin <= 0, torch.zeros_like(found), found)
        found[rows, labels] = torch.inf
        return found.min(1).values

    return distance


def _room(points: Tensor, towards: Tensor, box: Box, shape: torch.Size) -> Tensor:
    """How far each coordinate can move in the wanted direction; 0 where moving it gains nothing."""
    low, high = (torch.as_tensor(limit, dtype=torch.float64).expand(shape).flatten() for limit in (box.low, box.high))
    up, down = (high - points)[:, None], (points - low)[:, None]
    return torch.where(towards > 0, up, torch.where(towards < 0, down, 0.0)).clamp(min=0.0)


def _unboxed(margin: Tensor, towards: Tensor, norm: str) -> Tensor:
    if norm == "l0":
        return torch.where((towards != 0).any(2), 1.0, torch.inf).double()
    dual = {"linf": 1.0, "l2": 2.0, "l1": torch.inf}[norm]
    length: Tensor = torch.linalg.vector_norm(towards, ord=dual, dim=2)
    return margin / length


def _boxed(margin: Tensor, towards: Tensor, room: Tensor, norm: str) -> Tensor:
    """The least ‖δ‖ with towards·δ ≥ margin and |δ_i| ≤ room_i.

    linf, l2    the cheapest δ is min(λ p_i, room_i), p = 1 or |d_i|. Sorted by the λ at which a coordinate is
                used up, the gain is piecewise linear in λ: the piece that reaches the margin is solved.
    l1, l0      coordinates are used up one after another, steepest (l1) or most gain (l0) first.
    """
    slope = towards.abs()
    if norm in ("linf", "l2"):
        pace = torch.ones_like(slope) if norm == "linf" else slope
        full = torch.where(slope > 0, room / pace, 0.0)  # the λ at which a coordinate is used up
        order = full.argsort(2)
        full, slope, room, pace = (one.gather(2, order) for one in (full, slope, room, pace))
        spent = (slope * room).cumsum(2)
        rest = (slope * pace).flip(2).cumsum(2).flip(2) - slope * pace  # still moving after this one
        reached = spent + full * rest >= margin[..., None]
        piece = _first(reached)
        before, still = _pick(spent - slope * room, piece), _pick(rest + slope * pace, piece)
        level = (margin - before) / still
        if norm == "l2":
            fixed = _pick(room.square().cumsum(2) - room.square(), piece)
            moving = _pick(pace.square().flip(2).cumsum(2).flip(2), piece)
            level = (fixed + level.square() * moving).sqrt()
    else:
        order = (slope if norm == "l1" else slope * room).argsort(2, descending=True)
        slope, room = slope.gather(2, order), room.gather(2, order)
        gain = (slope * room).cumsum(2)
        reached = gain >= margin[..., None]
        piece = _first(reached)
        if norm == "l1":
            before = _pick(gain - slope * room, piece)
            level = _pick(room.cumsum(2) - room, piece) + (margin - before) / _pick(slope, piece)
        else:
            level = (piece + 1).double()
    return torch.where(reached.any(2), level, torch.inf)


def _first(reached: Tensor) -> Tensor:
    return torch.where(reached.any(2), reached.int().argmax(2), reached.shape[2] - 1)


def _pick(values: Tensor, piece: Tensor) -> Tensor:
    return values.gather(2, piece[..., None])[..., 0]
