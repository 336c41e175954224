"""Does the network know when it is wrong? Reliability, risk and coverage, and all scores."""

from __future__ import annotations

from collections.abc import Callable

from trustbound.record.audit import AuditRecord
from trustbound.record.scores import CalibrationScores, ConformalScore, TemperatureFit, UncertaintyReport
from trustbound.report.figures.bracket import NARROW, WIDE
from trustbound.report.figures.canvas import label
from trustbound.report.figures.reliability import reliability_picture
from trustbound.report.figures.risk import risk_picture
from trustbound.report.formatting import (
    amount,
    count,
    interval,
    measured,
    number,
    share,
    share_with_interval,
)
from trustbound.report.sections.blocks import Block, Paragraph, Picture, Section, Table, missing
from trustbound.report.wording import stopped, task_of, unmeasured

_RISK_ROWS = 20
_UNATTACKED = "Confidence under attack was not measured in this audit."


def _unmeasured(record: AuditRecord) -> str:
    """Why there is nothing to show."""
    if task_of(record).calibrated:
        return "Confidence was not measured in this audit."
    return f"No confidence is examined: {unmeasured(record)}."


def calibration_section(record: AuditRecord) -> Section:
    """Accuracy against confidence, clean and attacked: what the confidence is worth."""
    title = "Calibration, clean and under attack"
    if record.uncertainty is None:
        return Section(id="calibration", title=title, blocks=(missing(_unmeasured(record)),))
    states = _states(record)
    if all(_constant(scores) for _, scores in states):
        nothing = missing(
            "The model is as sure of every answer as of any other: it shows no confidence to be calibrated."
        )
        return Section(id="calibration", title=title, blocks=(nothing,))
    said = "; ".join(
        f"{state}: {share(scores.mean_confidence)} sure on average and {share(scores.accuracy)} right, off by "
        f"{number(100 * scores.ece, 2)} points"
        for state, scores in states
    )
    blocks: list[Block] = [
        Paragraph(
            text=f"What the confidence is worth. {said[:1].upper()}{said[1:]} (expected calibration error). Bars that "
            "stay below the dashed line: more is claimed than known."
        ),
        Picture(
            caption="Share of right answers over the confidence, with exact 95 % intervals.",
            wide=reliability_picture(states, width=WIDE, name="reliability-wide"),
            narrow=reliability_picture(states, width=NARROW, name="reliability-narrow"),
        ),
    ]
    if record.uncertainty.attacked is None:
        blocks.append(missing(_UNATTACKED))
    return Section(id="calibration", title=title, blocks=tuple(blocks))


def _constant(scores: CalibrationScores) -> bool:
    """Whether one and the same confidence was shown for right and wrong answers."""
    filled = [each for each in scores.reliability.bins if each.count]
    errors = scores.mean_confidence_on_errors
    return len(filled) == 1 and errors is not None and abs(errors - (scores.mean_confidence or 0.0)) < 1e-9


def reliability_section(record: AuditRecord) -> Section:
    """The bins of the diagrams."""
    title = "Calibration in numbers"
    if record.uncertainty is None:
        return Section(id="reliability", title=title, blocks=(missing(_unmeasured(record)),), folded=True)
    states = _states(record)
    blocks: list[Block] = [
        Table(
            caption=f"Reliability, {state}: accuracy with exact 95 % intervals, {amount(scores.n, 'example')}.",
            head=("confidence from", "to", "examples", "mean confidence", "accuracy"),
            rows=tuple(
                (
                    number(each.low),
                    number(each.high),
                    count(each.count),
                    "–" if each.confidence is None else share(each.confidence),
                    "–" if each.accuracy is None else share_with_interval(each.accuracy, each.interval),
                )
                for each in scores.reliability.bins
            ),
        )
        for state, scores in states
    ]
    return Section(id="reliability", title=title, blocks=tuple(blocks), folded=True)


def risk_section(record: AuditRecord) -> Section:
    """Errors among the most confident share, clean and attacked."""
    title = "Errors when only the surest answers are given"
    if record.uncertainty is None:
        return Section(id="risk-coverage", title=title, blocks=(missing(_unmeasured(record)),), folded=True)
    states = [(state, scores) for state, scores in _states(record) if scores.risk_coverage.coverage]
    if not states:
        return Section(id="risk-coverage", title=title, blocks=(missing("No coverages were recorded."),), folded=True)
    blocks: list[Block] = [
        Paragraph(
            text="If only the most confident share is answered, how many answers are wrong? A useful confidence "
            "keeps the line low on the left."
        ),
        Picture(
            caption="Error among the answers given: " + ", ".join(state for state, _ in states) + ".",
            wide=risk_picture(states, width=WIDE, name="risk-wide"),
            narrow=risk_picture(states, width=NARROW, name="risk-narrow"),
        ),
    ]
    if record.uncertainty.attacked is None:
        blocks.append(missing(_UNATTACKED))
    for state, scores in states:
        points = scores.risk_coverage
        shown = _spread(len(points.coverage), _RISK_ROWS)
        part = (
            ""
            if len(shown) == len(points.coverage)
            else f"; {len(shown)} of {len(points.coverage)} points, evenly spread"
        )
        blocks.append(
            Table(
                caption=f"Risk and coverage, {state}: error with exact 95 % intervals{part}.",
                head=("coverage", "answers", "error among them"),
                rows=tuple(
                    (
                        share(points.coverage[i]),
                        count(round(points.coverage[i] * scores.n)),
                        measured(points.risk[i], round(points.coverage[i] * scores.n)),
                    )
                    for i in shown
                ),
            )
        )
    return Section(id="risk-coverage", title=title, blocks=tuple(blocks), folded=True)


def uncertainty_section(record: AuditRecord) -> Section:
    """All calibration and ranking scores, the temperature and the conformal sets."""
    title = "Uncertainty in numbers"
    found = record.uncertainty
    if found is None:
        return Section(id="uncertainty", title=title, blocks=(missing(_unmeasured(record)),), folded=True)
    columns: list[tuple[str, CalibrationScores]] = _states(record)
    if found.scaled_clean is not None:
        columns.append(("clean, scaled", found.scaled_clean))
    columns += [
        (f"{_attacked(record, threat)}, scaled", under.scaled_attacked)
        for threat, under in record.doubts.items()
        if under.scaled_attacked is not None
    ]
    blocks: list[Block] = [
        Table(
            caption="Uncertainty scores: lower is better for NLL, Brier score, ECE and AURC, higher for AUROC. "
            "Scaled: logits divided by the temperature, on the evaluation examples only.",
            head=("score", *(name for name, _ in columns)),
            rows=tuple((name, *(read(scores) for _, scores in columns)) for name, read in _SCORES),
        )
    ]
    if found.attacked is None:
        blocks.append(missing(_UNATTACKED))
    blocks += _temperature(found.temperature)
    blocks.append(_conformal(record, found))
    return Section(id="uncertainty", title=title, blocks=tuple(blocks), folded=True)


_SCORES: tuple[tuple[str, Callable[[CalibrationScores], str]], ...] = (
    ("examples", lambda d: count(d.n)),
    ("accuracy", lambda d: measured(d.accuracy, d.n)),
    ("mean confidence", lambda d: share(d.mean_confidence)),
    ("mean confidence on errors", lambda d: share(d.mean_confidence_on_errors)),
    ("NLL, nats", lambda d: number(d.nll)),
    ("Brier score", lambda d: number(d.brier)),
    ("ECE, equal-width bins", lambda d: number(d.ece)),
    ("ECE, debiased", lambda d: number(d.ece_debiased)),
    ("its 95 % interval", lambda d: _range(d.ece_interval)),
    ("AUROC, right against wrong", lambda d: number(d.auroc)),
    ("AURC", lambda d: number(d.aurc)),
    ("AURC above a perfect ranking", lambda d: number(d.aurc_excess)),
)


def _range(limits: tuple[float, float]) -> str:
    """Limits that are no shares."""
    return f"{number(limits[0])} to {number(limits[1])}"


def _temperature(fit: TemperatureFit | None) -> list[Block]:
    """The advice on temperature scaling, with its effect."""
    if fit is None:
        return [missing("No temperature was fitted: too few examples to set some apart for it.")]
    why = stopped(fit.reason.removeprefix("do not ").removeprefix("scale: "))
    advice = f"Scale: divide logits by {number(fit.temperature)}." if fit.scale else "Do not scale."
    return [
        Paragraph(text=f"Temperature: {advice} {why[:1].upper()}{why[1:]}"),
        Table(
            caption="Temperature fitted on one split, its effect measured on another.",
            head=("score", "before", f"after (temperature {number(fit.temperature)})"),
            rows=(
                ("NLL", number(fit.nll_before), number(fit.nll_after)),
                ("ECE", number(fit.ece_before), number(fit.ece_after)),
            ),
        ),
    ]


def _conformal(record: AuditRecord, found: UncertaintyReport) -> Block:
    """Coverage and size of conformal sets."""
    if not found.conformal:
        return missing("No conformal sets were made: too few examples to set some apart for them.")
    return Table(
        caption="Split conformal sets: the coverage promised for clean inputs, and what was measured. "
        "The promise does not extend to attacked inputs. Size: mean number of classes in a set. Examples: "
        "calibrated on + measured on.",
        head=(
            "method",
            "promised",
            "clean coverage",
            "size",
            *(head for threat in record.doubts for head in (f"{_attacked(record, threat)} coverage", "size")),
            "quantile",
            "examples",
        ),
        rows=tuple(
            (
                each.method,
                share(each.level),
                share_with_interval(each.coverage_clean, each.coverage_interval),
                number(each.mean_set_size),
                *(
                    cell
                    for under in record.doubts.values()
                    for row in under.conformal
                    if row.method == each.method
                    for cell in _under_attack(row)
                ),
                number(each.quantile),
                f"{count(each.n_calibration)} + {count(each.n)}",
            )
            for each in found.conformal
        ),
    )


def _under_attack(row: ConformalScore) -> tuple[str, str]:
    """Coverage and mean size on the attacked inputs."""
    if row.coverage_attacked is None or row.mean_set_size_attacked is None:
        return "not measured", "not measured"
    coverage = f"{share(row.coverage_attacked)} ({interval(row.coverage_interval_attacked)})"
    return coverage, number(row.mean_set_size_attacked)


def _states(record: AuditRecord) -> list[tuple[str, CalibrationScores]]:
    """Clean once, and attacked under each threat where it was measured."""
    states = [("clean", under.clean) for under in list(record.doubts.values())[:1]]
    return states + [
        (_attacked(record, threat), under.attacked)
        for threat, under in record.doubts.items()
        if under.attacked is not None
    ]


def _attacked(record: AuditRecord, threat: str) -> str:
    """What the attacked state of a threat is called; the only one needs no name."""
    return "attacked" if len(record.doubts) == 1 else f"attacked ({label(threat, 24)})"


def _spread(total: int, most: int) -> list[int]:
    """At most so many positions, evenly spread, the last one among them."""
    shown = min(total, most)
    return [(i + 1) * total // shown - 1 for i in range(shown)]
