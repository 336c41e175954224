"""One kind of change by a few numbers, and the resampling that all geometric kinds share."""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.record.box import Box


class Transformation(abc.ABC):
    """A kind of change whose parameters are `columns` columns of θ, in the unit of its registry row."""

    columns: ClassVar[int] = 1

    @staticmethod
    @abc.abstractmethod
    def check(limit: float, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse inputs (*F) that it cannot change, and a limit that is a mistake of units."""


class Pointwise(Transformation):
    """Changes values where they are."""

    @staticmethod
    @abc.abstractmethod
    def apply(inputs: Tensor, theta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The changed inputs (R, *F), inside the box, by θ (R, columns)."""

    @staticmethod
    @abc.abstractmethod
    def limits(
        lowest: Tensor, highest: Tensor, floor: Tensor, ceiling: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Limits, but for rounding, of what becomes of inputs between two (R, *F), by θ between two (R, columns)."""


class Geometric(Transformation):
    """Moves pixels: it says for each place of the new picture where in the old one to look."""

    @staticmethod
    @abc.abstractmethod
    def back(theta: Tensor) -> Tensor:
        """(R, 3, 3): from (x, y, 1) in the new picture to the old, in pixels from the centre, x right and y down."""

    @staticmethod
    @abc.abstractmethod
    def looked(places: Tensor, spread: Tensor, floor: Tensor, ceiling: Tensor) -> tuple[Tensor, Tensor]:
        """Where `back` takes places ± spread (R, N, 2), by any θ between two (R, columns): again places ± spread."""


def resampled(pictures: Tensor, back: Tensor, fill: Tensor) -> Tensor:
    """Pictures (R, C, H, W) seen through maps (R, 3, 3), bilinear; what comes in from outside is `fill`.

    Where a map is the identity the picture stays as it is, to the last bit, and the slope is that of the resampling.

    >>> picture = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> shift = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    >>> resampled(picture, shift, torch.tensor(0.0))[0, 0, 0].tolist()
    [0.0, 0.0, 1.0]
    """
    height, width = pictures.shape[2:]
    kind = back.dtype
    x = torch.arange(width, dtype=kind, device=back.device) - (width - 1) / 2
    y = torch.arange(height, dtype=kind, device=back.device) - (height - 1) / 2
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1)
    looked = places.reshape(1, -1, 2) @ back[:, :2, :2].transpose(1, 2) + back[:, None, :2, 2]
    scale = torch.tensor([2.0 / width, 2.0 / height], dtype=kind, device=back.device)
    grid = (looked * scale).reshape(len(pictures), height, width, 2)
    whole = pictures.to(kind)
    moved = (
        functional.grid_sample(whole - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill
    )
    same = (back == torch.eye(3, dtype=kind, device=back.device)).all(dim=2).all(dim=1)
    exact = torch.where(same.reshape(-1, 1, 1, 1), whole, moved).detach()
    return exact + (moved - moved.detach())  # the last is zero, with the slope of the resampling


def check_picture(name: str, shape: tuple[int, ...], box: Box) -> None:
    """Refuse inputs that are no pictures (C, H, W), and boxes in which a place has limits of its own."""
    if len(shape) != 3 or min(shape[1:]) < 2:
        raise InputError(
            f"{name} moves the pixels of pictures (channels, height, width); the inputs have shape {shape}"
        )
    for limit in (box.low, box.high):
        whole = np.broadcast_to(np.asarray(limit), shape)
        if (whole != whole[:, :1, :1]).any():
            raise InputError(
                f"{name} moves values from place to place: the box must have one limit for all places of a channel"
            )


def check_limit(name: str, limit: float, most: float, unit: str) -> None:
    """Refuse a limit beyond which nothing new lies."""
    if not limit <= most:
        raise InputError(f"{name} must be at most {most:g} {unit}, beyond which nothing new lies; got {limit:g}")
