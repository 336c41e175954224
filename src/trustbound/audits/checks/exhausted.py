"""Was the search at its end when it ended?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle
from trustbound.audits.checks.probe import correct_rows
from trustbound.audits.checks.significance import severest


@dataclass(frozen=True, kw_only=True)
class SearchExhausted(EvaluationCheck[After]):
    """How much did the last round of the search still find among the examples that stood?

    Measures    the share that the last stage or round broke of the examples that it tried, blocks of one stage
                together, the control group left out where it was settled. A search that ends while it finds leaves an
                upper bound that a longer one would lower. One example alone is a PASS; FAIL needs three, and a share
                that is no chance (exact, 5 %) where the truth is 10 %.
    Cost        none.

    >>> SearchExhausted().name
    'search-exhausted'
    """

    name: ClassVar[str] = "search-exhausted"

    def measure(self, context: After) -> Finding:
        """Read the last round."""
        rounds = context.evidence.rounds
        if not rounds:
            return idle("after its first stage the search had nothing left to try, or no attack that serves this model")
        if _settled(context):
            return idle("the search ended with nothing left to try: no example that was answered rightly is unknown")
        last = rounds[-1]
        tried = f"its last round ({last.stage}) tried {last.tried} of the examples that stood and broke {last.broke}"
        return Finding(
            value=last.share,
            finding=f"the search was still finding when it ended: {tried}; the upper bound is too high"
            if last.broke > 1 and last.share > 0.02
            else f"the search had run dry: {tried}",
            advice="search on: the budgets standard and thorough add rounds until they are dry, or until a limit of "
            "evaluations that thorough sets higher.",
            evidence={"rounds": [[one.stage, one.tried, one.broke] for one in rounds]},
            at_most="PASS" if last.broke < 2 else severest(last.broke, last.tried, share=0.1, least=3),
        )


def _settled(context: After) -> bool:
    """Whether every example that was answered rightly is broken or certified."""
    outputs, broken, certified = (getattr(context.evidence, name) for name in ("clean_outputs", "broken", "certified"))
    if outputs is None or broken is None:
        return False
    settled = (broken if certified is None else broken | certified).cpu()
    return bool(settled[correct_rows(context, outputs)].all())
