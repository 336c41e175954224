"""The gallery: clean input, magnified perturbation and adversarial input of each exhibit."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trustbound.errors import RecordError
from trustbound.record.audit import AuditRecord, Exhibit
from trustbound.report.formatting import amount, number, share
from trustbound.report.sections.blocks import (
    Block,
    Exhibits,
    ExhibitView,
    Pane,
    Paragraph,
    Section,
    Table,
    missing,
)
from trustbound.report.sections.measures import plain, sentence
from trustbound.report.wording import class_name, is_picture

#: At most so many exhibits are shown; larger pictures than SIDE pixels are shown reduced.
MOST, SIDE = 6, 112
_FEATURES = 5

#: Colours of the classes of a map, told apart by colour-blind readers too (Okabe and Ito 2008); the first is dark.
_PAINTS = (
    (0.15, 0.17, 0.21),
    (0.90, 0.62, 0.00),
    (0.34, 0.71, 0.91),
    (0.00, 0.62, 0.45),
    (0.94, 0.89, 0.26),
    (0.80, 0.47, 0.65),
    (0.84, 0.37, 0.00),
    (0.00, 0.45, 0.70),
)

Array = NDArray[np.float32]


def read_gallery(run: Path) -> dict[str, Array] | None:
    """The gallery of a run directory, None where none was written.

    Raises      RecordError when the file is there but cannot be read.
    """
    path = Path(run) / "gallery.safetensors"
    if not path.exists():
        return None
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except Exception as error:
        raise RecordError(
            f"a gallery must be a safetensors file; {path} cannot be read ({error}). "
            "Remove it to write the report without pictures, or run the audit again."
        ) from error


def magnification(perturbation: Array, width: float) -> float:
    """The factor by which a perturbation is shown, so that it fills half the range: 1, 2 or 5 × 10^k.

    >>> magnification(np.array([0.1, -0.02]), 1.0), magnification(np.zeros(2), 1.0)
    (5.0, 1.0)
    """
    largest = float(np.abs(perturbation).max(initial=0.0))
    if largest <= 0.0 or not math.isfinite(largest):
        return 1.0
    factor = 0.5 * width / largest * (1.0 + 1e-6)
    power = 10.0 ** math.floor(math.log10(factor))
    return max(1.0, max(digit for digit in (1.0, 2.0, 5.0) if digit * power <= factor) * power)


def gallery_section(record: AuditRecord, gallery: Mapping[str, Array] | None) -> Section:
    """The exhibits of a record, in pictures where the inputs are pictures and their arrays are at hand."""
    title = "What broke it"
    if not record.gallery:
        return Section(
            id="gallery",
            title=title,
            blocks=(missing("The record holds no adversarial examples to show."),),
        )
    chosen = _chosen(record.gallery)
    views = tuple(_view(record, exhibit, gallery or {}) for exhibit in chosen)
    blocks: list[Block] = []
    if any(view.panes for view in views):
        shown = "" if len(chosen) == len(record.gallery) else f" Shown are {len(chosen)} of {len(record.gallery)} kept."
        blocks.append(
            Paragraph(
                text="Clean input, difference, adversarial input; the most confident mistakes first. In the difference "
                f"grey is no change, lighter is more, darker is less.{shown}"
            )
        )
    if any(view.panes or view.table for view in views):
        blocks.append(Exhibits(exhibits=views))
    else:
        blocks.append(missing("The inputs themselves were not at hand; their numbers are in the appendix."))
    return Section(id="gallery", title=title, blocks=tuple(blocks))


def gallery_numbers_section(record: AuditRecord) -> Section:
    """Every adversarial example that was kept for the gallery, in numbers."""
    nothing = missing("The record holds no adversarial examples to show.")
    blocks = (_table(record, list(record.gallery)),) if record.gallery else (nothing,)
    return Section(id="gallery-numbers", title="Adversarial examples in numbers", blocks=blocks, folded=True)


def _chosen(exhibits: tuple[Exhibit, ...]) -> list[Exhibit]:
    """At most MOST exhibits of as many inputs, the most confident first, drawn from the threats in turn.

    The same input under another threat shows the same again. Where no confidence is known, the order is the record's.
    """
    waiting: dict[str, list[Exhibit]] = {}
    for each in sorted(exhibits, key=_doubt):
        waiting.setdefault(each.threat, []).append(each)
    chosen: list[Exhibit] = []
    while len(chosen) < MOST and any(waiting.values()):
        for queue in waiting.values():
            seen = {each.index for each in chosen}
            while queue and queue[0].index in seen:
                queue.pop(0)
            if queue and len(chosen) < MOST:
                chosen.append(queue.pop(0))
    return sorted(chosen, key=_doubt)


def _doubt(exhibit: Exhibit) -> float:
    """How far a network was from being certain of its mistake."""
    return 1.0 - (exhibit.adversarial_confidence or 0.0)


def _view(record: AuditRecord, exhibit: Exhibit, arrays: Mapping[str, Array]) -> ExhibitView:
    """One exhibit laid out."""
    title = f"Example {exhibit.index}"
    if exhibit.label is not None and exhibit.adversarial_prediction is not None:
        title = f"{class_name(record, exhibit.label)} taken for {class_name(record, exhibit.adversarial_prediction)}"
    which = "" if title.endswith(f" {exhibit.index}") and exhibit.label is None else f", example {exhibit.index}"
    note = f"{exhibit.threat}, size {number(exhibit.size)}{which}."
    if exhibit.detail:
        note += f" {sentence(exhibit.detail)[:1].upper()}{sentence(exhibit.detail)[1:]}."
    clean, adversarial = (arrays.get(f"{part}/{exhibit.key}") for part in ("clean", "adversarial"))
    if clean is None or adversarial is None or np.shape(clean) != np.shape(adversarial):
        return ExhibitView(title=title, note=f"{note} The inputs were not at hand.")
    before, after = (np.nan_to_num(np.asarray(each, dtype=np.float32)) for each in (clean, adversarial))
    if not is_picture(before.shape):
        return ExhibitView(title=title, note=note, table=_features(before, after, _columns(record, exhibit.threat)))
    low, high = record.model.box
    factor = magnification(after - before, high - low)
    said = (
        (exhibit.clean_prediction, exhibit.clean_confidence),
        (exhibit.adversarial_prediction, exhibit.adversarial_confidence),
    )
    names = [_answer(record, *each) for each in said]
    height, width = before.shape[-2:]
    panes = tuple(
        Pane(
            png=png(values),
            width=width,
            height=height,
            alternative=f"{caption} of example {exhibit.index}: {detail}",
            caption=caption,
            detail=detail,
        )
        for values, caption, detail in (
            ((before - low) / (high - low), "clean", names[0]),
            (0.5 + factor * (after - before) / (high - low), "difference", f"times\u00a0{factor:g}"),
            ((after - low) / (high - low), "adversarial", names[1]),
        )
    )
    panes += _maps(record, exhibit, arrays)
    reduced = f" Shown reduced from {width} × {height}." if max(width, height) > SIDE else ""
    return ExhibitView(title=title, note=note + reduced, panes=panes)


def _answer(record: AuditRecord, wanted: int | None, confidence: float | None) -> str:
    """A class and how sure the model was of it; the class alone of a model that shows no confidence."""
    sure = "" if confidence is None else f", {share(confidence)}"
    return "" if wanted is None else f"{class_name(record, wanted)}{sure}"


def _maps(record: AuditRecord, exhibit: Exhibit, arrays: Mapping[str, Array]) -> tuple[Pane, ...]:
    """The maps of class numbers that a task keeps beside the inputs, each class in a colour of its own."""
    shown = (
        (f"clean-label/{exhibit.key}", "labels"),
        (f"clean-prediction/{exhibit.key}", "said of the clean input"),
        (f"adversarial-prediction/{exhibit.key}", "said of the adversarial"),
    )
    found = [(np.asarray(arrays[key]), caption) for key, caption in shown if key in arrays]
    return tuple(
        Pane(
            png=png(painted(values)),
            width=values.shape[-1],
            height=values.shape[-2],
            alternative=f"{caption}, example {exhibit.index}: " + ", ".join(_classes(record, values)),
            caption=caption,
            detail=", ".join(_classes(record, values)),
        )
        for values, caption in found
    )


def _classes(record: AuditRecord, values: Array) -> list[str]:
    """The classes on a map, the largest first."""
    known, counts = np.unique(values[values < record.model.classes].astype(np.int64), return_counts=True)
    return [class_name(record, int(one)) for one in known[np.argsort(-counts, kind="stable")]]


def painted(values: Array) -> Array:
    """A map of class numbers (H, W) as colours (3, H, W) in [0, 1]; what is no class of the palette is grey.

    >>> painted(np.array([[0.0, 1.0, 255.0]]))[:, 0].astype(float).round(2).tolist()
    [[0.15, 0.9, 0.5], [0.17, 0.62, 0.5], [0.21, 0.0, 0.5]]
    """
    numbers = values.astype(np.int64)
    known = (numbers >= 0) & (numbers < len(_PAINTS))
    colours = np.array([*_PAINTS, (0.5, 0.5, 0.5)], dtype=np.float32)
    return colours[np.where(known, numbers, len(_PAINTS))].transpose(2, 0, 1)


def _columns(record: AuditRecord, threat: str) -> tuple[str, ...]:
    """The names of the columns of a table; empty where the record knows none."""
    return next((tuple(one.name for one in b.columns) for b in record.brackets if b.threat == threat), ())


def _features(before: Array, after: Array, names: tuple[str, ...]) -> Table:
    """The features that changed most, by their names where every one has one."""
    flat, other = before.ravel(), after.ravel()
    change = other - flat
    order = np.argsort(-np.abs(change), kind="stable")[:_FEATURES]
    moved = int((change != 0).sum())
    return Table(
        caption=f"The {len(order)} largest changes; {moved} of {amount(flat.size, 'feature')} changed.",
        head=("feature", "clean", "change", "adversarial"),
        rows=tuple(
            (
                names[i] if len(names) == flat.size else str(int(i)),
                number(float(flat[i])),
                number(float(change[i])),
                number(float(other[i])),
            )
            for i in order
        ),
    )


def _table(record: AuditRecord, exhibits: list[Exhibit]) -> Table:
    """The numbers of the gallery."""
    if all(each.label is None for each in exhibits):
        names = list(dict.fromkeys(name for each in exhibits for name in each.detail))
        return Table(
            caption="The gallery in numbers.",
            head=("threat", "example", *(name.replace("_", " ") for name in names), "size", "by"),
            rows=tuple(
                (
                    each.threat,
                    str(each.index),
                    *(plain(each.detail, name) for name in names),
                    number(each.size),
                    each.broken_by,
                )
                for each in exhibits
            ),
            words=(0, len(names) + 3),
        )
    return Table(
        caption="The gallery in numbers; class and confidence as the network gave them.",
        head=(
            "threat",
            "example",
            "true class",
            "clean",
            "confidence",
            "adversarial",
            "confidence",
            "size",
            "by",
        ),
        rows=tuple(
            (
                each.threat,
                str(each.index),
                class_name(record, each.label),
                class_name(record, each.clean_prediction),
                share(each.clean_confidence),
                class_name(record, each.adversarial_prediction),
                share(each.adversarial_confidence),
                number(each.size),
                each.broken_by,
            )
            for each in exhibits
        ),
        words=(0, 2, 3, 5, 8),
    )


def png(values: Array) -> str:
    """An array (H, W), (1, H, W) or (3, H, W) with values in [0, 1] as PNG, in base64."""
    levels = np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
    if levels.ndim == 3:
        levels = levels[0] if levels.shape[0] == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
    image = Image.fromarray(levels)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode("ascii")
