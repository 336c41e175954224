"""Proofs where they pay: cheap ones of all that is open, dear ones block by block, the likeliest first."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trustbound.attacks.searching.known_points import KnownPoints
from trustbound.audits.planning.schedule import Proof
from trustbound.audits.stages.proving import at_least, at_once
from trustbound.audits.stages.verdicts import stage_facts
from trustbound.audits.work_units.attack import attacked
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.certificates.refuting import ATTACK

if TYPE_CHECKING:
    from trustbound.audits.stages.bracket import Search


def prove(search: Search, proof: Proof) -> None:
    """One certifier on what is open and on the control group; a dear one where it pays."""
    control = (search.context.control & search.verdicts.correct).nonzero()[:, 0]
    rows = search.verdicts.open()
    block = at_least(search.context.subject, proof.certifier)
    if len(rows) <= block and not proof.tighter:
        if not search.context.allowance.affords(f"{search.threat}/proof-{proof.certifier}"):
            search.untimely.append(f"proof-{proof.certifier}")
            search.given_up.append(f"{proof.certifier} was left out: there was no time for it")
            return
        _certify(search, proof, "", torch.cat([rows, control]).unique())
        return
    if proof.tighter:  # nearest to a proof first
        rows = rows[search.verdicts.proven_margin[rows].argsort(stable=True)]
    proven, tried = _largest_first(search, proof, rows.flip(0), block)
    if proven:  # a proof of what is broken would be a defect: looked for, for a quarter of the cost at most
        broken = control[search.verdicts.broken[control]]
        drawn = search.context.drawn(f"{proof.certifier}-control", broken, max(8, tried // 3))
        _certify(search, proof, "-control", drawn)


def _largest_first(search: Search, proof: Proof, rows: Tensor, block: int) -> tuple[int, int]:
    """Examples in blocks, largest margins first, for as long as a block has some proven; how many, and of how many.

    What an attack left near the boundary is rarely proven: a block of which less than `proof.pays` is ends it, and
    one that paid twice over is followed by one twice as large.
    """
    name, proven, tried, found = proof.certifier, 0, 0, 0
    part = rows[:0]
    for number in itertools.count(1):
        block_of = rows[: proof.most][tried : tried + block]
        if not len(block_of):
            break
        share = len(block_of) / len(rows)
        if not search.context.allowance.affords(f"{search.threat}/proof-{name}", share=share, part=f"-{number}"):
            search.untimely.append(f"proof-{name} of {len(rows) - tried} examples")
            break
        part = block_of
        found = _certify(search, proof, f"-{number}" if number > 1 else "", part.sort().values)
        proven, tried = proven + found, tried + len(part)
        if found < max(1.0, proof.pays * len(part)):
            break
        if found >= 2 * proof.pays * len(part):
            block *= 2
    left = len(rows) - tried
    if not tried:
        search.given_up.append(f"{name} was left out: there was no time for it")
    elif left:
        search.facts[-1] = replace(
            search.facts[-1],
            note=f"{left} of smaller margin were not tried: of these, {found} of {len(part)} were proven",
        )
    if left and tried and not proven:
        search.given_up.append(f"{name} proved none of the {tried} largest margins and was not run on the other {left}")
    return proven, tried


def _certify(search: Search, proof: Proof, part: str, positions: Tensor) -> int:
    """One certifier on examples at places; how many it settles of them."""
    if not len(positions):
        return 0
    name = proof.certifier
    step = f"{search.threat}/proof-{name}{part}"
    few = at_once(search.context, name, len(positions))
    rows = search.context.run(
        step, "proof", positions, method=name, params=proof.params, threat=search.threat, examples=few
    )
    first = search.verdicts.proved(step, rows)
    search.verdicts.bounds.setdefault(name, {}).update((row.position, row) for row in rows)
    cost = search.context.store.cost(step)
    search.facts.append(stage_facts(str(search.threat), f"proof-{name}{part}", "proof", name, rows, first, cost))
    asked = set(positions.tolist())  # a step of an older version may hold more
    return sum(row.found for row in rows if row.position in asked) + _refuted(search, name, part, step)


def _refuted(search: Search, name: str, part: str, step: str) -> int:
    """Counterexamples that a certifier met on its way, measured again like any other; how many they break."""
    points: dict[int, Tensor] = {}
    for kept in search.context.tensors(step, refuted=True):
        points |= dict(zip(kept["position"].tolist(), kept["adversarial"], strict=True))
    if not points:
        return 0

    def work(unit: WorkUnit) -> UnitResult:
        known = KnownPoints(torch.stack([points[position] for position in unit.positions]))
        return attacked(known, replace(unit, threat=str(search.threat)), search.context.subject)

    rows = search.context.here(f"{search.threat}/refuted-{name}{part}", torch.tensor(sorted(points)), work)
    before = int(search.verdicts.broken.sum())
    search.note(f"refuted-{name}{part}", "attack", ATTACK, rows, 0)
    return int(search.verdicts.broken.sum()) - before
