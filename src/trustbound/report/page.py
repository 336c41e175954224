"""The report: one HTML page that needs no script, no network and no other file."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from trustbound.errors import RecordError
from trustbound.record.audit import AuditRecord
from trustbound.report.figures.canvas import FONTS
from trustbound.report.figures.palette import variables
from trustbound.report.sections.blocks import Section
from trustbound.report.sections.brackets import brackets_section, errors_section, threats_section
from trustbound.report.sections.checks import all_checks_section, checks_section
from trustbound.report.sections.gallery import gallery_numbers_section, gallery_section
from trustbound.report.sections.opening import claims_section, opening
from trustbound.report.sections.reproduction import reproduce_section
from trustbound.report.sections.search import cost_section, curve_numbers_section, curve_section, waterfall_section
from trustbound.report.sections.shared import shared_section
from trustbound.report.sections.uncertainty import (
    calibration_section,
    reliability_section,
    risk_section,
    uncertainty_section,
)
from trustbound.report.verdict import judge
from trustbound.report.wording import legible

Array = NDArray[np.float32]


def render(record: AuditRecord, *, gallery: Mapping[str, Array] | None = None) -> str:
    """The whole report as HTML: a first screen for everybody, what stands behind it, an appendix that is folded.

    Every section is always there; one whose numbers the record lacks says so. The same record gives the same
    bytes. Printed are the parts that are open: two pages for a few threats while the appendix is folded.

    Parameters
        gallery     the arrays behind `record.gallery`, `clean/KEY` and `adversarial/KEY`, each (*F); see
                    `read_gallery`. Without them the gallery is a table.

    >>> from trustbound.record.audit import DataFacts, ModelFacts
    >>> from trustbound.record.cost import Cost
    >>> model = ModelFacts(name="tiny", sha256="", parameters=2, classes=2, input_shape=(2,), box=(0.0, 1.0),
    ...     device="cpu", dtype="float32")
    >>> data = DataFacts(name="pair", sha256="", n=2, class_names=("no", "yes"), indices=(0, 1))
    >>> record = AuditRecord(command="trustbound audit tiny", created="2025-01-01", versions={}, seed=0,
    ...     budget="quick", model=model, data=data, clean_accuracy=0.5, clean_interval=(0.013, 0.987),
    ...     brackets=(), steps=(), curves=(), doubts={}, checks=(), gallery=(), examples=(), cost=Cost(),
    ...     backward_cost=3.0, exit_code=0)
    >>> page = render(record)
    >>> page.startswith("<!doctype html>"), "No threat was examined" in page, "<script" in page
    (True, True, False)
    """
    verdict = judge(record)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            verdict=verdict,
            opening=opening(record),
            sections=sections(record, gallery),
            appendix=(claims_section(record, verdict), *appendix(record, gallery)),
            **theme(),
        )
    )


def write(record: AuditRecord, path: str | Path, *, gallery: Mapping[str, Array] | None = None) -> Path:
    """Render the report into a file, whole or not at all; returns its path.

    Raises      RecordError when the file cannot be written; what stood there before then still stands.
    """
    return save(render(record, gallery=gallery), path)


def sections(record: AuditRecord, gallery: Mapping[str, Array] | None = None) -> tuple[Section, ...]:
    """What stands open behind the first screen, in the order of the page."""
    return (
        curve_section(record),
        gallery_section(record, gallery),
        calibration_section(record),
        checks_section(record),
    )


def appendix(record: AuditRecord, gallery: Mapping[str, Array] | None = None) -> tuple[Section, ...]:
    """Everything behind the numbers, folded."""
    return (
        brackets_section(record),
        threats_section(record),
        errors_section(record),
        waterfall_section(record),
        *((shared_section(record, gallery),) if record.shared else ()),
        curve_numbers_section(record),
        gallery_numbers_section(record),
        reliability_section(record),
        risk_section(record),
        uncertainty_section(record),
        all_checks_section(record),
        cost_section(record),
        reproduce_section(record),
    )


def save(text: str, path: str | Path) -> Path:
    """Write a text file atomically: a temporary file beside it, flushed to the disk, then renamed."""
    target = Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = file.name
            file.write(text.encode("utf-8", errors="replace"))
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise RecordError(
            f"a report needs a directory that can be written; {target} cannot be ({error}). "
            "Name another path or make room, then run `trustbound report` on the run directory: "
            "the evidence is intact."
        ) from error
    return target


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates, with everything escaped that is not marked as safe."""
    templates = Environment(
        loader=PackageLoader("trustbound.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=legible_value,
    )
    return templates


def legible_value(value: Any) -> Any:
    """Text without characters that a page must not hold; markup and everything else as it is."""
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def theme() -> dict[str, Markup]:
    """Colours and fonts for the style sheet."""
    return {
        "light": Markup(variables("light")),
        "dark": Markup(variables("dark")),
        "fonts": Markup(FONTS),
    }
