"""The record in a terminal: headline, bracket table, and every check that did not pass."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from trustbound.record.audit import AuditRecord, Bracket
from trustbound.report.formatting import amount, count, duration, interval, number, share
from trustbound.report.verdict import judge, ordered_checks
from trustbound.report.wording import as_sentence, legible, precision_words, stopped

_STYLE = {"FAIL": "bold red", "WARN": "yellow", "PASS": "green", "SKIP": "dim"}
_MARK = {"FAIL": "✗", "WARN": "!", "PASS": "✓", "SKIP": "–"}
_CELLS = 20


def summary(record: AuditRecord) -> RenderableType:
    """What a reader at a terminal needs; print it with `rich.console.Console`.

    Nothing from the record is read as markup. When the numbers are not to be trusted, that comes first.
    """
    verdict = judge(record)
    style = {"trusted": "bold", "missed": "bold yellow", "distrusted": "bold red"}[verdict.standing]
    parts: list[RenderableType] = [Text(legible(verdict.headline), style=style)]
    if len(verdict.reasons) > 2:
        parts += [Padding(Text(f"· {legible(reason)}"), (0, 0, 0, 2)) for reason in verdict.reasons]
    parts.append(Text(legible(verdict.clean)))
    if record.brackets:
        parts.append(_brackets(record))
    parts += [
        Text(f"{legible(bracket.threat)}: {legible(bracket.no_proof)}", style="dim")
        for bracket in record.brackets
        if bracket.no_proof
    ]
    parts += [Text(f"{legible(each)}", style="dim") for bracket in record.brackets for each in precision_words(bracket)]
    if any(bracket.unknown for bracket in record.brackets):
        parts.append(Text("unknown: neither broken nor proven. A failure of attacks proves nothing.", style="dim"))
    parts += _checks(record)
    parts.append(
        Text(
            f"cost: {count(record.cost.forwards)} forwards, {count(record.cost.backwards)} backwards "
            f"({number(record.cost.units(record.backward_cost))} units) in {duration(record.cost.seconds)}",
            style="dim",
        )
    )
    return Group(*parts)


def strip(bracket: Bracket, cells: int = _CELLS) -> Text:
    """A bracket as a strip of cells: █ certified, ░ unknown, × broken, · misclassified.

    Each verdict that occurs gets at least one cell.

    >>> bracket = Bracket(threat="linf:0.1", lower=0.5, upper=0.75, lower_interval=(0.0, 1.0),
    ...     upper_interval=(0.0, 1.0), n=100, certified=50, broken=24, misclassified=1, unknown=25)
    >>> strip(bracket, 12).plain
    '██████░░░××·'
    """
    counts = [bracket.certified, bracket.unknown, bracket.broken, bracket.misclassified]
    total = max(sum(counts), 1)
    exact = [cells * each / total for each in counts]
    lengths = [max(int(each), 1) if some else 0 for each, some in zip(exact, counts, strict=True)]
    while sum(lengths) < cells and any(counts):
        lengths[max(range(4), key=lambda i: exact[i] - lengths[i])] += 1
    while sum(lengths) > cells:
        lengths[max(range(4), key=lambda i: lengths[i] - exact[i] if lengths[i] > 1 else -9.0)] -= 1
    text = Text()
    for length, glyph, style in zip(lengths, "█░×·", ("blue", "bright_black", "red", "magenta"), strict=True):
        text.append(glyph * length, style=style)
    return text


def _brackets(record: AuditRecord) -> Table:
    """The bracket table."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("threat", no_wrap=True)
    table.add_column("bracket", no_wrap=True)
    for heading in ("at least\n(certified)", "at most\n(unbroken)", "unknown", "n"):
        table.add_column(heading, justify="right")
    for bracket in record.brackets:
        table.add_row(
            Text(legible(bracket.threat, 24)),
            strip(bracket),
            Text(f"{share(bracket.lower)}\n({interval(bracket.lower_interval)})"),
            Text(f"{share(bracket.upper)}\n({interval(bracket.upper_interval)})"),
            Text(f"{count(bracket.unknown)}\n({share(bracket.unknown / bracket.n)})"),
            Text(count(bracket.n)),
        )
    return table


def _checks(record: AuditRecord) -> list[RenderableType]:
    """One line of counts, then each check that failed or warned with what to do."""
    if not record.checks:
        return [Text("checks: none made; whether the upper bounds are to be believed is unknown.")]
    tally = [(name, sum(each.verdict == name for each in record.checks)) for name in _STYLE]
    line = Text(f"{amount(len(record.checks), 'check')}: ")
    for index, (name, number_of) in enumerate(tally):
        line.append(("" if index == 0 else ", ") + f"{number_of} {name}", style=_STYLE[name] if number_of else "dim")
    found: list[RenderableType] = [line]
    for each in ordered_checks(record.checks):
        if each.verdict in ("PASS", "SKIP"):
            continue
        style = _STYLE.get(each.verdict, "bold red")
        text = Text(f"{_MARK.get(each.verdict, '?')} {each.verdict} ", style=style)
        text.append(legible(each.name) + (f" ({legible(each.threat)})" if each.threat else ""), style="bold")
        text.append(f": {stopped(legible(each.finding))}")
        if each.advice:
            text.append(f" {as_sentence(legible(each.advice))}", style="italic")
        found.append(Padding(text, (0, 0, 0, 2)))
    return found
