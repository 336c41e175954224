"""Limits of pixels over cells of parameters: they hold what the set says, written out here again."""

import itertools
import math

import numpy as np
import pytest
import torch

from trustbound.record.box import Box
from trustbound.threat import Threat
from trustbound.threat.sets import cells
from trustbound.threat.sets.translation import Translation

TEXTS = {
    "rotation:40": 1,
    "translation:3": 2,
    "brightness:0.3": 1,
    "rotation:40,translation:2": 3,
    "translation:2,brightness:0.2,rotation:25": 4,
}
BOXES = [Box(0.0, 1.0), Box(-0.3, 1.2)]


def seen(picture, back, fill):
    """A picture (C, H, W) through a map, pixel by pixel: four neighbours, `fill` outside."""
    channels, height, width = picture.shape
    found = np.empty_like(picture)
    for row, column in itertools.product(range(height), range(width)):
        u, v, _ = back @ np.array([column - (width - 1) / 2, row - (height - 1) / 2, 1.0])
        u, v = u + (width - 1) / 2, v + (height - 1) / 2
        left, top = math.floor(u), math.floor(v)
        value = np.zeros(channels)
        for x, y in itertools.product((left, left + 1), (top, top + 1)):
            inside = 0 <= x < width and 0 <= y < height
            value += (1 - abs(u - x)) * (1 - abs(v - y)) * (picture[:, y, x] if inside else fill)
        found[:, row, column] = value
    return found


def oracle(text, picture, theta, box):
    """What the set says of a picture, in float64 numpy."""
    back, column = None, 0
    for name, *_ in (part.split(":") for part in text.split(",")):
        if name == "brightness":
            picture = picture if back is None else seen(picture, back, box.low)
            picture, back = np.clip(picture + theta[column], box.low, box.high), None
            column += 1
            continue
        if name == "rotation":
            angle = math.radians(theta[column])
            sine, cosine = math.sin(angle), math.cos(angle)
            step = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
        else:
            step = np.array([[1, 0, -theta[column]], [0, 1, -theta[column + 1]], [0, 0, 1]])
        column += 1 if name == "rotation" else 2
        back = step if back is None else back @ step
    return picture if back is None else seen(picture, back, box.low)


def drawn(text, count, width, box, seed=0):
    """Pictures of odd sizes, and cells of a share of the set, some of them at its ends."""
    chance = torch.Generator().manual_seed(seed)
    shape = (count, 2, 4, 7)
    inputs = torch.rand(shape, generator=chance) * (box.high - box.low) + box.low
    inputs = torch.where(torch.rand(shape, generator=chance) < 0.4, torch.tensor(float(box.low)), inputs)
    pace = Threat.parse(text).perturbations.around(inputs, box).pace
    middle = (torch.rand(count, TEXTS[text], generator=chance, dtype=torch.float64) * 2 - 1) * pace
    middle[0] = pace
    floor, ceiling = (middle + sign * width * pace for sign in (-1, 1))
    return inputs, floor.clamp(-pace, pace), ceiling.clamp(-pace, pace)


def escapes(text, width, box, samples=6, seed=0):
    """How far pixels leave their limits at ends and inside of cells: by the rule, and as searches compute it."""
    perturbations = Threat.parse(text).perturbations
    inputs, floor, ceiling = drawn(text, 5, width, box, seed)
    low, high = cells.cell_limits(perturbations, inputs, box, floor, ceiling)
    chance = torch.Generator().manual_seed(seed + 1)
    exact = computed = 0.0
    for number in range(samples):
        share = torch.rand(floor.shape, generator=chance, dtype=torch.float64)
        theta = floor + (ceiling - floor) * (share.round() if number < samples // 2 else share)
        told = np.stack(
            [oracle(text, one.double().numpy(), row.tolist(), box) for one, row in zip(inputs, theta, strict=True)]
        )
        wanted = torch.from_numpy(told)
        exact = max(exact, float((low - wanted).max()), float((wanted - high).max()))
        for kind in (torch.float32, torch.float64):
            found = perturbations.around(inputs.to(kind), box).apply(theta.to(kind)).double()
            computed = max(computed, float((low - found).max()), float((found - high).max()))
    return exact - 1e-14, computed  # what the oracle itself rounds


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("box", BOXES, ids=str)
@pytest.mark.parametrize("width", [0.0, 1e-7, 0.01, 0.2, 1.0])
def test_limits_hold_what_the_rule_says_and_what_searches_compute(text, box, width):
    exact, computed = escapes(text, width, box)
    assert exact <= 0.0
    assert computed <= 0.0


@pytest.mark.parametrize("text", TEXTS)
def test_limits_of_a_point_are_the_picture_and_close_as_cells_do(text):
    perturbations, box = Threat.parse(text).perturbations, BOXES[0]
    widths = []
    for width in (0.0, 1e-3, 1e-2):
        inputs, floor, ceiling = drawn(text, 5, width, box)
        low, high = cells.cell_limits(perturbations, inputs, box, floor, ceiling)
        widths.append(float((high - low).mean()))
    assert widths[0] < 3e-4
    assert 5 < (widths[2] - widths[0]) / (widths[1] - widths[0]) < 15


def test_limits_over_a_shift_are_those_of_the_pixels_that_it_passes():
    picture = torch.tensor([[[[0.0, 1.0, 0.25, 0.5]] * 2]])
    shifts = Threat.parse("translation:2").perturbations
    far = torch.tensor([[1.0, 0.0]])
    low, high = cells.cell_limits(shifts, picture, BOXES[0], torch.zeros(1, 2), far)
    torch.testing.assert_close(low[0, 0, 0].float(), torch.tensor([0.0, 0.0, 0.25, 0.25]), atol=1e-3, rtol=0)
    torch.testing.assert_close(high[0, 0, 0].float(), torch.tensor([0.0, 1.0, 1.0, 0.5]), atol=1e-3, rtol=0)


def test_no_pictures_have_no_limits_and_each_row_has_its_own():
    perturbations = Threat.parse("rotation:30").perturbations
    inputs, floor, ceiling = drawn("rotation:40", 5, 0.1, BOXES[0])
    empty = cells.cell_limits(perturbations, inputs[:0], BOXES[0], floor[:0], ceiling[:0])
    assert [part.shape for part in empty] == [(0, 2, 4, 7)] * 2
    together = cells.cell_limits(perturbations, inputs, BOXES[0], floor, ceiling)
    alone = cells.cell_limits(perturbations, inputs[3:4], BOXES[0], floor[3:4], ceiling[3:4])
    for whole, part in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[3:4], part, atol=1e-12, rtol=0)


def short_of_the_border(monkeypatch):
    """Cells that end a little before their ends."""
    kept = Translation.looked

    def looked(places, spread, floor, ceiling):
        middle, half = (floor + ceiling) / 2, 0.49 * (ceiling - floor)
        return kept(places, spread, middle - half, middle + half)

    monkeypatch.setattr(Translation, "looked", staticmethod(looked))


def zeros_come_in(monkeypatch):
    """What comes in from outside taken for zero, whatever the box."""
    kept = cells._over_rectangles
    none = torch.zeros((), dtype=torch.float64)
    monkeypatch.setattr(cells, "_over_rectangles", lambda *given: kept(*given[:4], (none, none)))


def ends_alone(monkeypatch):
    """Rectangles asked at their corners, and at no pixel between them."""
    monkeypatch.setattr(cells, "_breaks", lambda first, last: torch.stack([first, last]))


def no_rounding(monkeypatch):
    """Nothing charged for what floating point rounds."""
    monkeypatch.setattr(cells, "PLACES", 0)
    monkeypatch.setattr(cells, "VALUES", 0)


@pytest.mark.parametrize(
    ("fault", "text", "width", "sign"),
    [
        (short_of_the_border, "translation:3", 0.02, 0),
        (zeros_come_in, "rotation:40", 0.05, 0),
        (ends_alone, "rotation:40", 0.2, 0),
        (no_rounding, "rotation:40", 0.0, 1),
    ],
)
def test_a_wrong_limit_is_seen(monkeypatch, fault, text, width, sign):
    box = BOXES[1]
    assert max(escapes(text, width, box, samples=12)) <= 0.0
    fault(monkeypatch)
    assert escapes(text, width, box, samples=12)[sign] > 0.0
