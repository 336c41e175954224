"""What breaks a model, as pictures: clean, difference and adversarial side by side, and the adversarial one alone.

A PNG has 8 bits a channel: what was found is rounded to the nearest of 256 levels, and need not break the model any
more, nor stay inside the threat. So each picture is read again as any reader would, measured, and shown to the model.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.data.labelled import LabelledSet
from trustbound.errors import TrustboundError, UnsupportedError
from trustbound.exports.witnesses import witnesses
from trustbound.metrics.decision import answered, decide
from trustbound.metrics.margin import rounding_error
from trustbound.model.wrapping import Model
from trustbound.record.audit import AuditRecord, ExampleRow
from trustbound.record.disk.atomic import write_atomically
from trustbound.report.sections.gallery import magnification
from trustbound.report.wording import class_name, is_picture
from trustbound.threat import Threat
from trustbound.threat.binding import bind

#: Pictures side by side are enlarged to at least so many pixels; the caption below takes so many.
SIDE, CAPTION, GAP = 128, 18, 6
#: Pictures shown to the model at once.
BLOCK = 64

#: Columns of `contents.csv`.
CONTENTS = (
    "file", "side_by_side", "threat", "row", "label", "clean_prediction", "adversarial_prediction", "size",
    "difference_magnified", "prediction_8_bit", "margin_8_bit", "still_breaks", "size_8_bit", "inside_8_bit",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A picture after rounding to 8 bits.

    Parameters
        breaks      "yes", "no", "tie" (within rounding error), or why the model was not asked.
        size        None where the set's size cannot be read off a picture.
    """

    breaks: str
    prediction: int | None = None
    margin: float | None = None
    size: float | None = None
    inside: bool | None = None


def write_pictures(
    run: Path, record: AuditRecord, data: LabelledSet, model: Model | None, folder: Path, *, limit: int
) -> list[dict[str, Any]]:
    """Write the pictures of the broken examples, the most confidently wrong first; returns the lines of `contents.csv`.

    Parameters
        limit   examples of each threat at most.

    Raises      UnsupportedError for inputs that are no pictures, and where nothing was broken.
    """
    if not is_picture(data.shape):
        raise UnsupportedError(
            f"pictures are inputs of shape (H, W), (1, H, W) or (3, H, W); those of this run have {data.shape}. "
            "Arrays (--npz) and tables (--csv) hold them."
        )
    if not any(row.verdict == "broken" for row in record.examples):
        raise UnsupportedError("no example of this run was broken: there is no adversarial picture to write.")
    lines = []
    for number, bracket in enumerate(record.brackets):
        rows = [row for row in record.examples if row.threat == bracket.threat]
        chosen = _chosen(rows, limit)
        found = witnesses(run, record, bracket.threat, chosen)
        place = folder / f"{number}-{re.sub(r'[^A-Za-z0-9.]+', '-', bracket.threat).strip('-')}"
        place.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(chosen), BLOCK):
            positions = chosen[start : start + BLOCK]
            clean = data.batch(positions)
            adversarial = torch.stack([found[position].adversarial for position in positions])
            levels = to_levels(adversarial.double().numpy(), data)
            judged = rounded(model, data, bracket.threat, positions, levels, record.model.classes)
            for at, position in enumerate(positions):
                alone, beside = (place / f"{rows[position].index:06d}{end}.png" for end in ("", "-side-by-side"))
                _save(alone, _image(levels[at]))
                drawn, factor = side_by_side(
                    record, rows[position], clean[at].double().numpy(), adversarial[at].double().numpy(), data
                )
                _save(beside, drawn)
                names = [path.relative_to(folder).as_posix() for path in (alone, beside)]
                lines.append(_line(names, rows[position], factor, judged[at]))
    write_atomically(folder / "contents.csv", lambda scratch: scratch.write_bytes(_table(lines)))
    return lines


def to_levels(values: NDArray[np.float64], data: LabelledSet) -> NDArray[np.uint8]:
    """Inputs of the box in 256 levels, 0 its lowest and 255 its highest value.

    >>> to_levels(np.array([[0.0, 0.5, 1.0]]), LabelledSet(torch.zeros(1, 3), [0])).tolist()
    [[0, 128, 255]]
    """
    low, high = (np.asarray(limit, dtype=np.float64) for limit in (data.box.low, data.box.high))
    return np.rint(np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def rounded(
    model: Model | None,
    data: LabelledSet,
    threat: str,
    positions: Sequence[int],
    levels: NDArray[np.uint8],
    classes: int,
) -> list[Rounded]:
    """What the rounded pictures of some examples are: read as 8-bit data is, measured, and shown to the model."""
    read = LabelledSet(levels, data.labels[list(positions)], box=data.box, task=data.task).inputs
    perturbations = Threat.parse(threat.partition(";")[0]).perturbations
    around = perturbations.around(data.batch(positions), data.box)
    told = [Rounded(breaks="not asked: no model was given")] * len(positions)
    if around.additive:
        sizes, inside = around.size(read).tolist(), around.contains(read).tolist()
        told = [replace(one, size=size, inside=within) for one, size, within in zip(told, sizes, inside, strict=True)]
    if model is None:
        return told
    try:
        goal = Threat.parse(threat).goal
    except TrustboundError:
        return [replace(one, breaks="not asked: the goal is one of the caller's own") for one in told]
    labels = data.labels[list(positions)].to(model.device)
    objective, view = bind(goal, model.task, labels, classes)
    inputs, names = read.to(model.device, model.input_dtype), torch.arange(len(read), device=model.device)
    with Oracle(model, examples=len(read), task="the pictures after rounding", silenced=inputs) as oracle:
        outputs = oracle.outputs(inputs, names)
        if view is None:
            error, scores = rounding_error(outputs, model.precision), outputs
        else:
            error, scores = view.rounding_error(outputs, names, model.precision), view(outputs, names)
        margin = objective.margin(scores).double()
        rejected = oracle.rejected(inputs, names, margin < 0)
    return [
        replace(one, **said) for one, said in zip(told, _judged(model, scores, margin, error, rejected), strict=True)
    ]


def _judged(model: Model, scores: Tensor, margin: Tensor, error: Tensor, rejected: Tensor) -> list[dict[str, Any]]:
    silent = ~answered(scores)
    said = decide(scores)[0].tolist()
    found = []
    for at, prediction in enumerate(said):
        near = abs(float(margin[at])) <= float(error[at])
        breaks = (float(margin[at]) < 0 or bool(silent[at])) and not bool(rejected[at])
        found.append(
            {
                "breaks": "tie" if near and not bool(silent[at]) else "yes" if breaks else "no",
                "prediction": prediction if model.task.plain and not bool(silent[at]) else None,
                "margin": float(margin[at]) if math.isfinite(float(margin[at])) else None,
            }
        )
    return found


def side_by_side(
    record: AuditRecord, row: ExampleRow, clean: NDArray[Any], adversarial: NDArray[Any], data: LabelledSet
) -> tuple[Image.Image, float]:
    """Clean, difference and adversarial with captions, and the factor by which the difference is shown.

    Grey is no change, lighter is more, darker is less: 0.5 + factor · difference / width of the box.
    """
    low, high = (np.asarray(limit, dtype=np.float64) for limit in (data.box.low, data.box.high))
    difference = (adversarial - clean) / (high - low)
    factor = magnification(difference.astype(np.float32), 1.0)
    grey = np.rint(np.clip(0.5 + factor * difference, 0.0, 1.0) * 255.0).astype(np.uint8)
    said = [
        "" if one is None else f": {_writable(record, one)}" for one in (row.prediction, row.adversarial_prediction)
    ]
    shown = (
        (to_levels(clean, data), f"clean{said[0]}"),
        (grey, f"difference × {factor:g}"),
        (to_levels(adversarial, data), f"adversarial{said[1]}"),
    )
    panes = [(_enlarged(_image(levels)), caption) for levels, caption in shown]
    width, height = panes[0][0].size
    sheet = Image.new("RGB", (3 * width + 4 * GAP, height + CAPTION + 2 * GAP), "white")
    pen, font = ImageDraw.Draw(sheet), _font()
    for number, (image, caption) in enumerate(panes):
        left = GAP + number * (width + GAP)
        sheet.paste(image.convert("RGB"), (left, GAP))
        pen.text((left, height + GAP + 3), _fitting(caption, pen, font, width), fill="black", font=font)
    return sheet, factor


def _writable(record: AuditRecord, index: int) -> str:
    """A class by its name where the font has its letters (Latin, Greek, Cyrillic), else by its number."""
    name = class_name(record, index)
    return name if all(ord(letter) < 0x0590 for letter in name) else str(index)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans, which matplotlib brings; Pillow's own font lacks the sign ×."""
    try:
        return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)
    except OSError:  # a matplotlib without its fonts, or a Pillow without FreeType
        return ImageFont.load_default()


def _fitting(caption: str, pen: ImageDraw.ImageDraw, font: Any, width: int) -> str:
    """A caption in so many pixels."""
    text = caption
    while len(text) > 4 and pen.textlength(text, font=font) > width:
        text = f"{text[:-3]}.."
    return text


def _chosen(rows: Sequence[ExampleRow], limit: int) -> list[int]:
    """Places of the broken examples, the most confidently wrong first."""
    broken = [position for position, row in enumerate(rows) if row.verdict == "broken"]
    return sorted(broken, key=lambda position: -(rows[position].adversarial_confidence or 0.0))[:limit]


def _image(levels: NDArray[np.uint8]) -> Image.Image:
    if levels.ndim == 3:
        levels = levels[0] if levels.shape[0] == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
    return Image.fromarray(levels)


def _enlarged(image: Image.Image) -> Image.Image:
    """Pixels as squares, where the picture is small."""
    factor = max(1, math.ceil(SIDE / min(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _save(path: Path, image: Image.Image) -> None:
    written = io.BytesIO()
    image.save(written, format="PNG")
    write_atomically(path, lambda scratch: scratch.write_bytes(written.getvalue()))


def _line(names: Sequence[str], row: ExampleRow, factor: float, judged: Rounded) -> dict[str, Any]:
    return dict(
        zip(
            CONTENTS,
            (
                *names, row.threat, row.index, row.label, row.prediction, row.adversarial_prediction, row.size, factor,
                judged.prediction, judged.margin, judged.breaks, judged.size, judged.inside,
            ),
            strict=True,
        )
    )  # fmt: skip


def _table(lines: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, CONTENTS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().encode("utf-8")
