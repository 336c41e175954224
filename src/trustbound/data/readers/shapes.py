"""A drawn set for segmentation: discs, squares and triangles on a textured ground, a class for each pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trustbound.data.labelled import LabelledSet
from trustbound.record.box import Box

#: Pixels a side; examples of each split; the generator's seed of each split.
SIDE = 32
COUNTS = {"train": 400, "test": 100}
_SEEDS = {"train": 20_231, "test": 20_232}

GROUND, DISC, SQUARE, TRIANGLE = range(4)


def read_shapes(split: str, *, box: Box | None = None) -> LabelledSet:
    """Two to four shapes on each 32×32 picture, every pixel labelled ground, disc, square or triangle.

    Drawn       by a generator of fixed seed, the same pictures everywhere: a ground of waves and noise, shapes of
                random place, size, turn and colour, later ones over earlier ones, noise over all. Colours of ground
                and shapes overlap, so that the outline must be looked at.
    Shapes      inputs (N, 3, 32, 32) uint8; labels (N, 32, 32) int64, no pixel without one.

    >>> data = read_shapes("test")
    >>> len(data), data.shape, data.labels.shape, sorted(set(data.labels.flatten().tolist()))
    (100, (3, 32, 32), torch.Size([100, 32, 32]), [0, 1, 2, 3])
    """
    random = np.random.Generator(np.random.PCG64(_SEEDS[split]))
    drawn = [_picture(random) for _ in range(COUNTS[split])]
    return LabelledSet(
        np.stack([picture for picture, _ in drawn]),
        np.stack([labels for _, labels in drawn]),
        box=box or Box(0.0, 1.0),
        class_names=("ground", "disc", "square", "triangle"),
        name=f"shapes/{split}",
        task="segmentation",
    )


def _picture(random: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One picture (3, H, W) and its labels (H, W)."""
    rows, columns = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    values = _ground(random, rows, columns)
    labels = np.full((SIDE, SIDE), GROUND, dtype=np.int64)
    for _ in range(int(random.integers(2, 5))):
        kind = int(random.integers(DISC, TRIANGLE + 1))
        inside = _inside(random, kind, rows, columns)
        colour = random.uniform(0.35, 1.0, 3)
        values = np.where(inside, colour[:, None, None], values)
        labels[inside] = kind
    values = values + random.normal(0.0, 0.03, values.shape)
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8), labels


def _ground(random: np.random.Generator, rows: Any, columns: Any) -> NDArray[np.float64]:
    """Dark waves in a random direction, with noise."""
    turn, phase, length = random.uniform(0, np.pi), random.uniform(0, 2 * np.pi), random.uniform(4.0, 9.0)
    wave = np.sin((rows * np.cos(turn) + columns * np.sin(turn)) * 2 * np.pi / length + phase)
    colour = random.uniform(0.1, 0.4, 3)
    ground: NDArray[np.float64] = colour[:, None, None] + 0.1 * wave + random.normal(0.0, 0.04, (3, SIDE, SIDE))
    return ground


def _inside(random: np.random.Generator, kind: int, rows: Any, columns: Any) -> Any:
    """Which pixels a shape of a kind covers, at a random place, size and turn."""
    size, turn = random.uniform(4.0, 8.0), random.uniform(0, 2 * np.pi)
    place = random.uniform(5.0, SIDE - 5.0, 2)
    down, right = rows - place[0], columns - place[1]
    if kind == DISC:
        return down**2 + right**2 <= size**2
    across = down * np.cos(turn) + right * np.sin(turn)
    along = right * np.cos(turn) - down * np.sin(turn)
    if kind == SQUARE:
        return np.maximum(abs(across), abs(along)) <= 0.85 * size
    # Three half planes, each at half the distance of the corners.
    angles = 2 * np.pi * np.arange(3) / 3
    return np.all([across * np.cos(angle) + along * np.sin(angle) <= 0.6 * size for angle in angles], axis=0)
