"""What a page opens with: each threat as a sentence, three figures and a bar, and how the checks stand."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.figures.bracket import NARROW, WIDE
from trustbound.report.figures.headline import headline_picture
from trustbound.report.formatting import amount, date, interval, share
from trustbound.report.sections.blocks import Items, Line, Paragraph, Picture, Section
from trustbound.report.sections.checks import checks_line
from trustbound.report.verdict import Verdict
from trustbound.report.wording import Noun, noun, stopped, subject, task_of, withstanding

#: From so many threats on the figures are set small: the first screen is for all of them.
_MANY = 3


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number to be read from afar, what it is, and its exact interval; `role` is its colour."""

    value: str
    words: str
    detail: str
    role: str


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found under one threat; `unproven` says why nothing is proven, empty where something is."""

    threat: str
    sentence: str
    figures: tuple[Figure, ...]
    picture: Picture
    unproven: str = ""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first screen. `facts` stand under the title, `dense` says that there are many threats."""

    title: str
    facts: tuple[str, ...]
    findings: tuple[Finding, ...]
    dense: bool
    checks: Line
    remark: str


def opening(record: AuditRecord) -> Opening:
    """The first screen of a record."""
    what = noun(record.model.input_shape)
    facts = (
        *(() if record.model.name.endswith(subject(record)) else (record.model.name,)),
        record.data.name,
        amount(record.data.n, what.one, what.many),
        f"budget {record.budget}",
        date(record.created),
    )
    remark = "Nothing follows for other or larger changes, nor for data of another kind."
    if any(bracket.unknown for bracket in record.brackets):
        remark = f"Unknown is neither broken nor proven: that an attack failed proves nothing. {remark}"
    return Opening(
        title=subject(record),
        facts=facts,
        findings=tuple(_finding(record, bracket, what, place) for place, bracket in enumerate(record.brackets)),
        dense=len(record.brackets) >= _MANY,
        checks=checks_line(record),
        remark=remark,
    )


def claims_section(record: AuditRecord, verdict: Verdict) -> Section:
    """The long form of the first screen: every claim with its reasons, and what must not be claimed."""
    blocks = [Paragraph(text=verdict.clean)]
    lists = [Items(title=f"Under {claim.threat}: {claim.range}", items=claim.sentences) for claim in verdict.claims]
    limits = Items(title="What cannot be claimed", items=verdict.limits)
    said = (Paragraph(text=f"The audit’s own words: {stopped(record.verdict)}", tone="note"),) if record.verdict else ()
    return Section(
        id="claims",
        title="What can be claimed, and what cannot",
        blocks=(*blocks, *lists, limits, *said),
        folded=True,
    )


def _finding(record: AuditRecord, bracket: Bracket, what: Noun, place: int) -> Finding:
    """A threat on the first screen."""
    figures = (
        Figure(
            value=share(bracket.lower),
            words="proven to withstand it" if bracket.certified else "proven: nothing",
            detail=f"at least · 95 %: {interval(bracket.lower_interval)}",
            role="certified",
        ),
        Figure(
            value=share(bracket.upper),
            words="withstood every attack",
            detail=f"at most · 95 %: {interval(bracket.upper_interval)}",
            role="unknown-stripe",
        ),
        Figure(
            value=share(record.clean_accuracy),
            words="right when nothing is changed",
            detail=f"clean · 95 %: {interval(record.clean_interval)}",
            role="rule",
        ),
    )
    clean = "clean accuracy" if task_of(record).calibrated else "right when nothing is changed are"
    return Finding(
        threat=bracket.threat,
        sentence=f"{withstanding(bracket, what)}; {clean} {share(record.clean_accuracy)}.",
        figures=figures,
        picture=Picture(
            caption="",
            wide=headline_picture(bracket, width=WIDE, name=f"bracket-{place}-wide"),
            narrow=headline_picture(bracket, width=NARROW, name=f"bracket-{place}-narrow"),
        ),
        unproven=stopped(bracket.no_proof) if not bracket.certified else "",
    )
