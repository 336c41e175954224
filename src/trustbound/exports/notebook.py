"""What a notebook shows of an audit: one sentence for each threat, the bracket picture, and what speaks against it."""

from __future__ import annotations

import hashlib
from html import escape

from trustbound.record.audit import AuditRecord
from trustbound.report.figures.bracket import bracket_picture
from trustbound.report.figures.canvas import FONTS
from trustbound.report.figures.palette import variables
from trustbound.report.formatting import amount, share
from trustbound.report.verdict import judge
from trustbound.report.wording import legible, noun, withstanding

WIDTH = 640.0


def view(record: AuditRecord) -> str:
    """A piece of HTML with a picture inside it, light or dark as the reader's system is; it needs nothing else.

    >>> from trustbound.record.audit import Bracket, DataFacts, ModelFacts
    >>> from trustbound.record.cost import Cost
    >>> model = ModelFacts(name="tiny", sha256="", parameters=2, classes=2, input_shape=(2,), box=(0.0, 1.0),
    ...     device="cpu", dtype="float32")
    >>> data = DataFacts(name="pair", sha256="", n=2, class_names=(), indices=(0, 1))
    >>> bracket = Bracket(threat="linf:0.1", lower=0.5, upper=1.0, lower_interval=(0.01, 0.99),
    ...     upper_interval=(0.15, 1.0), n=2, certified=1, broken=0, misclassified=0, unknown=1)
    >>> record = AuditRecord(command="", created="2025-01-01", versions={}, seed=0, budget="quick", model=model,
    ...     data=data, clean_accuracy=1.0, clean_interval=(0.15, 1.0), brackets=(bracket,), steps=(), curves=(),
    ...     doubts={}, checks=(), gallery=(), examples=(), cost=Cost(), backward_cost=3.0, exit_code=0)
    >>> "between 50.0\\xa0% and 100\\xa0% of 2 inputs withstand it" in view(record)
    True
    """
    what, reasons = noun(record.model.input_shape), judge(record).reasons
    mark = (
        "trustbound-" + hashlib.sha256(f"{record.created} {record.command} {record.brackets}".encode()).hexdigest()[:8]
    )
    said = [f"<p><b>Not to be trusted:</b> {_text(reason)}.</p>" for reason in reasons]
    said += [f"<p>{_text(withstanding(bracket, what))}.</p>" for bracket in record.brackets]
    if not record.brackets:
        said.append("<p>No threat was examined, so nothing is known about robustness.</p>")
    picture = bracket_picture(record.brackets, width=WIDTH, name=mark, standalone=False) if record.brackets else ""
    warned = sum(check.verdict == "WARN" for check in record.checks)
    failed = sum(check.verdict == "FAIL" for check in record.checks)
    foot = (
        f"{record.model.name} on {amount(record.data.n, what.one, what.many)} of {record.data.name}; clean accuracy "
        f"{share(record.clean_accuracy)}; {amount(len(record.checks), 'check')}: {failed} FAIL, {warned} WARN; budget "
        f"{record.budget}"
    )
    style = (
        f"#{mark}{{{variables('light')};color-scheme:light;background:var(--paper);color:var(--ink);font-family:{FONTS};"
        f"padding:.6rem 1rem;max-width:{WIDTH + 32:g}px}}"
        f"@media(prefers-color-scheme:dark){{#{mark}{{{variables('dark')};color-scheme:dark}}}}"
        f"#{mark} svg{{display:block;width:100%;height:auto}}#{mark} small{{color:var(--muted)}}"
    )
    return f'<div id="{mark}"><style>{style}</style>{"".join(said)}{picture}<small>{_text(foot)}</small></div>'


def _text(words: str) -> str:
    return escape(legible(words))
