"""Which of two audits stands higher under a threat: what is proven, what chance does not explain, or neither."""

from __future__ import annotations

from collections.abc import Sequence

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.record.binomial import mcnemar
from trustbound.report.formatting import amount, count, number, share
from trustbound.report.verdict import judge
from trustbound.report.wording import Noun, noun

#: A difference that is at least this likely without a cause is called chance.
_LEVEL = 0.05


def order(records: Sequence[AuditRecord], names: Sequence[str], threat: str) -> tuple[str, ...]:
    """What can be said of the order under a threat: the first audit that examined it against each other one.

    The answer first, then the numbers it rests on. Probabilities are multiplied by the number of comparisons.
    """
    ours = [
        (name, record, bracket)
        for name, record in zip(names, records, strict=True)
        for bracket in record.brackets
        if bracket.threat == threat
    ]
    doubtful = [name for name, record, _ in ours if judge(record).reasons]
    if doubtful:
        return (f"No order is claimed: the numbers of {', '.join(doubtful)} are not to be trusted.",)
    if len(ours) < 2:
        return (f"No order is claimed: {ours[0][0]} alone was audited under this threat.",)
    (name, first, bracket), *others = ours
    said: list[str] = []
    for other, second, theirs in others:
        if not first.same_examples(second):
            why = _unlike(first, second)
            said.append(f"No order of {name} and {other} is claimed: the audits did not use the same examples ({why}).")
        else:
            stands = first.standing(threat), second.standing(threat)
            said += _said((name, other), (bracket, theirs), stands, len(others), noun(first.model.input_shape))
    return tuple(said)


def _unlike(first: AuditRecord, second: AuditRecord) -> str:
    """In what the examples differ."""
    if first.data.sha256 != second.data.sha256:
        return f"{first.data.name} and {second.data.name} are different data"
    shared = len(set(first.data.indices) & set(second.data.indices))
    return (
        f"{count(first.data.n)} and {count(second.data.n)} rows of {first.data.name}, {count(shared)} of them in both"
    )


def _said(
    names: tuple[str, str],
    brackets: tuple[Bracket, Bracket],
    stands: tuple[dict[int, bool], dict[int, bool]],
    comparisons: int,
    what: Noun,
) -> list[str]:
    """Answer and numbers for one pair; `stands` says which examples withstood every attack, by row."""
    before, after = stands
    paired = bool(before) and before.keys() == after.keys()
    gained = sum(after[row] and not stood for row, stood in before.items()) if paired else 0
    lost = sum(stood and not after[row] for row, stood in before.items()) if paired else 0
    probability = min(mcnemar(gained, lost) * comparisons, 1.0)
    proven = next((way for way in (0, 1) if brackets[way].lower > brackets[1 - way].upper), None)
    if proven is not None:
        answer = (
            f"{names[proven]} withstands more than {names[1 - proven]}, and on these {what.many} that is proven: "
            f"at least {share(brackets[proven].lower)} against at most {share(brackets[1 - proven].upper)}."
        )
    elif probability < _LEVEL:
        better = int(gained > lost)
        answer = (
            f"{names[better]} withstood the attacks on more {what.many} than {names[1 - better]}, more than chance "
            "explains. Their brackets overlap, so stronger attacks could still turn that round."
        )
    else:
        answer = f"What was found does not tell {names[0]} and {names[1]} apart: their brackets overlap."
    if not paired:
        return [answer, "The records do not list the same single examples, so none are compared one by one."]
    shown = f"p {'< 0.001' if probability < 0.001 else '= ' + number(probability, 2)}"
    corrected = "" if comparisons == 1 else f", corrected for {comparisons} comparisons"
    chance = "." if probability < _LEVEL else f"; for further {what.many} the difference may be chance."
    numbers = (
        f"{amount(gained, what.one, what.many)} withstood every attack only in {names[1]}, {count(lost)} only in "
        f"{names[0]} (exact McNemar test on the same {what.many}, {shown}{corrected}){chance}"
    )
    return [answer, numbers]
