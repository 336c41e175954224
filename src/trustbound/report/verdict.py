"""What can be claimed from a record, what cannot, and whether its numbers are to be believed at all."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.record.audit import UNCONCERNED, AuditRecord, Bracket, Check
from trustbound.report.formatting import amount, count, interval, share
from trustbound.report.wording import Noun, change_words, kept, noun, task_of, unmeasured

_READ_FIRST = ("FAIL", "WARN", "PASS", "SKIP")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What was found under one threat: the range in figures, and the sentences that say what it means."""

    threat: str
    range: str
    sentences: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The judgement over a record.

    Parameters
        standing    "trusted", "missed" (a threshold) or "distrusted".
        headline    one sentence; when distrusted it says so before anything else.
        reasons     why the numbers are not to be trusted, empty otherwise.
        clean       accuracy when nobody interferes, in words.
        claims      one for each threat.
        limits      what the record does not allow anyone to claim.
    """

    standing: str
    headline: str
    reasons: tuple[str, ...]
    clean: str
    claims: tuple[Claim, ...]
    limits: tuple[str, ...]


def ordered_checks(checks: tuple[Check, ...]) -> tuple[Check, ...]:
    """Checks as they are to be read: FAIL, WARN, PASS, SKIP; errors before warnings; else as recorded."""
    severity = ("error", "warning", "note")
    return tuple(
        sorted(
            checks,
            key=lambda each: (
                _READ_FIRST.index(each.verdict) if each.verdict in _READ_FIRST else 0,
                severity.index(each.severity) if each.severity in severity else 0,
            ),
        )
    )


def judge(record: AuditRecord) -> Verdict:
    """Put a record into plain words, claiming nothing beyond it."""
    what = noun(record.model.input_shape)
    reasons = _distrust(record)
    beyond = {step.threat: step.settled for step in record.steps if step.name == UNCONCERNED}
    task = task_of(record)
    claims = tuple(
        _claim(bracket, what, bool(reasons), beyond.get(bracket.threat, 0), task.right) for bracket in record.brackets
    )
    right = round(record.clean_accuracy * record.data.n)
    clean = (
        f"Without interference {share(record.clean_accuracy)} of {count(record.data.n)} "
        f"{what.of(record.data.n)} ({count(right)}) are {task.right} "
        f"(95 % interval {interval(record.clean_interval)})."
    )
    if reasons:
        standing = "distrusted"
        headline = "These numbers are not to be trusted, because " + _listed(reasons)
    elif record.exit_code == 1:
        standing = "missed"
        headline = "The audit finished, but a required threshold was missed. " + _bracketed(record, what)
    else:
        standing, headline = "trusted", _bracketed(record, what)
    return Verdict(
        standing=standing,
        headline=headline,
        reasons=reasons,
        clean=clean,
        claims=claims,
        limits=_limits(record, what),
    )


def contradiction(bracket: Bracket) -> str:
    """What in a bracket cannot be true, empty when all is consistent.

    >>> contradiction(Bracket(threat="linf:0.1", lower=0.5, upper=0.2, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=10, certified=5, broken=8, misclassified=0, unknown=0))
    'under linf:0.1 more is certified (5 of 10) than was left unbroken (2 of 10)'
    """
    unbroken = bracket.n - bracket.broken - bracket.misclassified
    if bracket.certified > unbroken or bracket.lower > bracket.upper:
        return (
            f"under {bracket.threat} more is certified ({count(bracket.certified)} of {count(bracket.n)}) "
            f"than was left unbroken ({count(unbroken)} of {count(bracket.n)})"
        )
    if bracket.certified + bracket.unknown != unbroken:
        return f"the verdicts under {bracket.threat} do not add up to its {amount(bracket.n, 'example')}"
    return ""


def _distrust(record: AuditRecord) -> tuple[str, ...]:
    """Reasons against the numbers: failed checks whose failure means it, contradictions, the exit code."""
    reasons = [
        f"the check {each.name} failed" + (f" ({each.threat})" if each.threat else "") + f": {each.finding}"
        for each in record.checks
        if each.verdict == "FAIL" and each.severity == "error"
    ]
    reasons += [said for said in map(contradiction, record.brackets) if said]
    if record.exit_code == 3 and not reasons:
        said = record.verdict or "; ".join(record.events) or "it does not say why"
        reasons.append(f"the audit itself ended with exit code 3, finished but not to be trusted: {said}")
    return tuple(reason.strip().rstrip(".") for reason in reasons)


def _bracketed(record: AuditRecord, what: Noun) -> str:
    """The headline when nothing speaks against the numbers: the bracket of each threat in one breath."""
    if not record.brackets:
        return "No threat was examined, so nothing is known about robustness."
    parts = []
    for bracket in record.brackets:
        if bracket.certified == 0:
            parts.append(f"at most {share(bracket.upper)} withstand {bracket.threat}, and none is proven")
        elif bracket.lower == bracket.upper:
            parts.append(f"exactly {share(bracket.lower)} withstand {bracket.threat}")
        else:
            parts.append(f"between {share(bracket.lower)} and {share(bracket.upper)} withstand {bracket.threat}")
    n = record.brackets[0].n
    return f"Of {count(n)} {what.of(n)}, {'; '.join(parts)}."


def _claim(bracket: Bracket, what: Noun, distrusted: bool, beyond: int, right: str) -> Claim:
    """The sentences of one threat; `beyond` of the certified are none of the goal's concern."""
    n, changed = bracket.n, change_words(bracket, what)
    state = kept(bracket, right)
    said = [
        f"Of {count(n)} {what.of(n)}, at least {share(bracket.lower)} and at most {share(bracket.upper)} are "
        f"{state} under {changed}."
    ]
    if bracket.certified:
        said.append(
            f"At least: {amount(bracket.certified, what.one, what.many)} "
            f"{'was' if bracket.certified == 1 else 'were'} certified; the proof covers every allowed change "
            f"(95 % interval of the share {interval(bracket.lower_interval)})."
        )
        if beyond:
            said.append(
                f"{count(beyond)} of these needed no proof: the goal does not concern them (they are of the wanted "
                "class already, or not of the class to be changed)."
            )
    else:
        why = f" ({bracket.no_proof})" if bracket.no_proof else ""
        said.append(
            f"Nothing could be proven{why}: the lower bound is 0 "
            f"(95 % interval {interval(bracket.lower_interval)}), which says nothing for or against the network."
        )
    if bracket.certified and bracket.no_proof:
        said.append(f"Where proof was not possible: {bracket.no_proof}.")
    said.append(
        f"At most: {amount(bracket.broken, what.one, what.many)} of those {right} "
        f"{'was' if bracket.broken == 1 else 'were'} broken by a change that was checked, and "
        f"{amount(bracket.misclassified, what.one, what.many)} "
        f"{'was' if bracket.misclassified == 1 else 'were'} wrong from the start "
        f"(95 % interval of the remaining share {interval(bracket.upper_interval)})."
    )
    said.append(
        f"For further {what.many} drawn like these, the true robust share lies between "
        f"{share(bracket.lower_interval[0])} and {share(bracket.upper_interval[1])} with at least 95 % "
        "confidence."
        if not distrusted
        else f"Since the numbers are not to be trusted, nothing follows from them for further {what.many}."
    )
    return Claim(threat=bracket.threat, range=_range(bracket), sentences=tuple(said))


def _range(bracket: Bracket) -> str:
    """The bracket in figures."""
    if bracket.lower == bracket.upper:
        return share(bracket.lower)
    return f"{share(bracket.lower)} to {share(bracket.upper)}"


def _limits(record: AuditRecord, what: Noun) -> tuple[str, ...]:
    """What must not be read into the record."""
    said = []
    for bracket in record.brackets:
        if bracket.unknown:
            ties = (
                f" For {count(bracket.ties)} of them the margin under attack lies below rounding error."
                if bracket.ties
                else ""
            )
            said.append(
                f"{amount(bracket.unknown, what.one, what.many)} under {bracket.threat} "
                f"{'is' if bracket.unknown == 1 else 'are'} unknown: neither broken nor proven. That an "
                f"attack failed proves nothing.{ties}"
            )
    if record.brackets:
        said.append(
            "Nothing is claimed about other or larger changes than "
            + ", ".join(bracket.threat for bracket in record.brackets)
            + "."
        )
    said.append(
        f"Nothing is claimed about {what.many} that are not drawn like those of {record.data.name}; the intervals "
        f"speak of chance in drawing {amount(record.data.n, what.one, what.many)}, not of other data."
    )
    for verdict, said_of in (("FAIL", "failed"), ("WARN", "warned")):
        names = [
            each.name
            for each in ordered_checks(record.checks)
            if each.verdict == verdict and not (verdict == "FAIL" and each.severity == "error")
        ]
        if names:
            said.append(
                f"{amount(len(names), 'check')} of the evaluation {said_of}; read what they found before "
                f"relying on the numbers: {', '.join(dict.fromkeys(names))}."
            )
    if not record.checks:
        said.append("No check of the evaluation was made: the upper bounds may be too high.")
    if record.uncertainty is None:
        said.append(f"Nothing is claimed about confidence: {unmeasured(record)}.")
    return tuple(said)


def _listed(reasons: tuple[str, ...]) -> str:
    """Reasons as one sentence, or their number and the first when there are many."""
    if len(reasons) <= 2:
        return ", and because ".join(reasons) + "."
    return f"{reasons[0]}, and for {len(reasons) - 1} further reasons below."
