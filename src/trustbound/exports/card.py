"""The section of a model card about how far the model can be trusted: Markdown, no claim beyond the record."""

from __future__ import annotations

import re

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.formatting import amount, date, interval, number, share
from trustbound.report.verdict import judge
from trustbound.report.wording import legible, noun

#: Characters that Markdown or HTML inside it would read as more than themselves.
_MARKS = re.compile(r"([\\`*_{}\[\]<>|#&~$])")


def model_card(record: AuditRecord) -> str:
    """What was found, what was not shown, and how to repeat it.

    Names come from outside and are written letter by letter: none makes a heading, a link or a tag.

    >>> from trustbound.record.audit import DataFacts, ModelFacts
    >>> from trustbound.record.cost import Cost
    >>> model = ModelFacts(name="tiny", sha256="ab", parameters=2, classes=2, input_shape=(2,), box=(0.0, 1.0),
    ...     device="cpu", dtype="float32")
    >>> data = DataFacts(name="pair", sha256="cd", n=2, class_names=(), indices=(0, 1))
    >>> record = AuditRecord(command="trustbound audit tiny", created="2025-01-01", versions={"trustbound": "0.1.0"},
    ...     seed=0, budget="quick", model=model, data=data, clean_accuracy=0.5, clean_interval=(0.013, 0.987),
    ...     brackets=(), steps=(), curves=(), doubts={}, checks=(), gallery=(), examples=(), cost=Cost(),
    ...     backward_cost=3.0, exit_code=0)
    >>> print(model_card(record).splitlines()[0])
    ## How far this model can be trusted
    """
    verdict, what = judge(record), noun(record.model.input_shape)
    lines = ["## How far this model can be trusted", ""]
    if verdict.reasons:
        lines += ["**These numbers are not to be trusted**, and no claim is made from them:", ""]
        lines += [*(f"- {_text(reason)}." for reason in verdict.reasons), ""]
    else:
        lines += [_text(verdict.clean), ""]
        if record.brackets:
            lines += ["| threat | at least | at most | unknown |", "| --- | --- | --- | --- |"]
            lines += [*(_row(bracket) for bracket in record.brackets), ""]
        for claim in verdict.claims:
            lines += [f"**{_text(claim.threat)}.** {_text(' '.join(claim.sentences))}", ""]
        lines += _calibration(record)
    lines += ["### What was not shown", "", *(f"- {_text(limit)}" for limit in verdict.limits), ""]
    lines += ["### How to repeat it", "", *_fenced(record.command), ""]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    facts = {
        "made": date(record.created),
        "model": f"{record.model.name}, SHA-256 {record.model.sha256 or 'not recorded'}",
        "data": f"{record.data.name}, {amount(record.data.n, what.one, what.many)}, SHA-256 "
        f"{record.data.sha256 or 'not recorded'}",
        "budget and seed": f"{record.budget}, {record.seed}",
        "versions": versions or "not recorded",
        "evaluations": number(record.cost.units(record.backward_cost)),
    }
    lines += [f"- {name}: {_text(value)}" for name, value in facts.items()]
    lines += [
        "",
        "certified share ≤ true robust accuracy on these examples ≤ unbroken share; intervals are exact binomial, "
        "95 %. Written by trustbound from the record of the audit.",
    ]
    return "\n".join(lines) + "\n"


def _row(bracket: Bracket) -> str:
    """The bracket in figures, each bound with its interval."""
    cells = (
        _text(bracket.threat),
        f"{share(bracket.lower)} ({interval(bracket.lower_interval)})",
        f"{share(bracket.upper)} ({interval(bracket.upper_interval)})",
        f"{bracket.unknown:,} of {bracket.n:,}",
    )
    return f"| {' | '.join(cells)} |"


def _calibration(record: AuditRecord) -> list[str]:
    """The calibration of its confidence on clean examples."""
    if record.uncertainty is None:
        return []
    scores = record.uncertainty.clean
    low, high = scores.ece_interval
    return [
        f"Expected calibration error on {amount(scores.n, 'example')}: {number(scores.ece, 2)}; "
        f"{number(scores.ece_debiased, 2)} without what chance alone adds (95 % interval {number(low, 2)} to "
        f"{number(high, 2)}).",
        "",
    ]


def _text(words: str) -> str:
    """Words from a record as plain text of Markdown."""
    return _MARKS.sub(r"\\\1", legible(words))


def _fenced(command: str) -> list[str]:
    """A command as a block that no backtick in it can end."""
    text = legible(command)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [f"{fence}sh", text, fence]
