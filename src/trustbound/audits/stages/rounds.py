"""Rounds of the search until they are dry: no search ends while it still finds."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from trustbound.attacks import build
from trustbound.attacks.model_access.oracle import price_of
from trustbound.attacks.suites import Rounds
from trustbound.audits.planning.pricing import at_most

if TYPE_CHECKING:
    from trustbound.audits.stages.bracket import Search
    from trustbound.audits.stages.verdicts import Round


def until_dry(search: Search, rounds: Rounds) -> None:
    """Further rounds of varied kind on what stands, cheapest first, until `rounds.quiet` in a row are dry.

    The last stage before them counts as the first in that row.

    A round tries the smallest margins and goes on to the next ones while that pays; it is dry where it broke less than
    2 % of what it tried, and nothing where it tried fewer than fifty. The whole search never takes more than
    `rounds.limit` forwards and backwards, each as often as the model's draws ask, for each example that it is asked
    about: a round that would is cut short, and where nothing can be paid any more the search ends as it stands, for
    the check `search-exhausted` to say.
    Every decision follows from evidence that is kept, so that a resumed audit takes the same ones.
    """
    look, draws = price_of(search.context.model), search.context.model.adaptation.draws
    quiet = sum(_dry(last, rounds) for last in search.verdicts.rounds[-1:])
    for number, kind in enumerate(itertools.cycle(rounds.kinds), 1):
        standing = len(search.verdicts.open())
        if not standing or quiet == rounds.quiet:
            return
        share, part = 1.0 / rounds.quiet, f"-{number}"
        if not search.context.allowance.affords(f"{search.threat}/rounds", share=share, part=part):
            search.untimely.append("further rounds")
            return
        name, params = kind.method(smooth=search.smooth)
        forwards, backwards = at_most(build(name, **params))
        left = rounds.limit * look * search.asked - search.spent
        most = min(standing, left // (look * forwards + draws * backwards))
        if most < min(standing, kind.least):
            return
        named = kind.named(f"round-{number}-{kind.name}")
        done = search.spread(named, max(kind.least, math.ceil(kind.share * standing)), most=most, control=False)
        quiet = quiet + 1 if _dry(done, rounds) else 0


def _dry(done: Round, rounds: Rounds) -> bool:
    return done.broke < max(1, rounds.pays * done.tried)
