"""The checks of an audit: probes before the search, and what its evidence says after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trustbound.attacks import Attack
from trustbound.audits.checks.context import Evidence
from trustbound.audits.checks.examine import due, examine
from trustbound.audits.checks.gradient_attacks import planned, ran
from trustbound.audits.checks.registry import CHECKS, CheckRow
from trustbound.audits.stages.clean import Clean
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.audits.stages.white_and_black_box import sides
from trustbound.audits.work_units.check import looked_at
from trustbound.audits.work_units.unit import WorkUnit
from trustbound.data.labelled import LabelledSet
from trustbound.record.audit import Bracket, Check, StageFacts
from trustbound.record.codec import from_document, to_document
from trustbound.record.cost import Cost
from trustbound.threat import Threat


def before_search(context: Context, training: LabelledSet | None) -> tuple[Check, ...]:
    """Probe the model: what must hold before any attack is worth running."""
    checks: tuple[Check, ...] = ()
    # The checks of the model as a whole run once, under the threat whose adversary sees most of it.
    most = max(range(len(context.threats)), key=lambda number: (context.threats[number].access, -number))
    for number, threat in enumerate(context.threats):
        attacks = planned(context.budget, threat, context.model.task)
        rows = due("before", None if number == most else "threat")
        checks += _kept(context, threat, f"{threat}/checks-before", rows, attacks, training=training)
    return checks


def after_search(
    context: Context,
    threat: Threat,
    verdicts: Verdicts,
    clean: Clean,
    facts: list[StageFacts],
    found: dict[int, Tensor],
    fingerprint: dict[str, str],
) -> tuple[Check, ...]:
    """Examine the evidence of one threat's search."""
    adversarial = context.inputs(torch.arange(len(context.data))).cpu().clone()
    for position, witness in found.items():
        adversarial[position] = witness.to(adversarial.dtype)
    device = context.model.device
    white, black = sides(verdicts, facts)
    both = torch.zeros(len(context.data), dtype=torch.bool)
    both[verdicts.conflicts()] = True
    evidence = Evidence(
        clean_outputs=clean.logits.to(device),
        broken=verdicts.broken.to(device),
        adversarial=adversarial.to(device),
        certified=verdicts.certified.to(device),
        contradicted=both.to(device),
        control=(context.control & verdicts.correct & threat.goal.concerns(context.data.labels)).to(device),
        white=None if white is None else white.to(device),
        black=None if black is None else black.to(device),
        rounds=tuple(verdicts.rounds),
        fingerprint=fingerprint,
    )
    attacks = ran(context.budget, threat, facts, context.model.task)
    return _kept(context, threat, f"{threat}/checks-after", due("after"), attacks, evidence)


def shortened_checks(context: Context, step: str) -> list[str]:
    """What was left out of checks for time, in words."""
    share, checks = context.allowance.share(step), f"checks {step.rpartition('-')[2]} the search"
    if share == 1.0:
        return []
    drawn = f"{100 * (1.0 - share):.0f} % of the examples that {checks} draw"
    return [drawn if share else f"{checks} that ask the model"]


def weighed(checks: Sequence[Check], brackets: Sequence[Bracket]) -> tuple[Check, ...]:
    """Checks of the search condemn only bounds that rest on a search.

    Where nothing is unknown, every example carries a witness that was measured again or a proof: how well the search
    could see is of no account, and a failure becomes a note.
    """
    closed = {bracket.threat for bracket in brackets if not bracket.unknown}
    every = len(closed) == len(brackets)
    return tuple(
        dataclasses.replace(
            check, severity="note", finding=f"{check.finding} (no bound rests on it: nothing is left unknown)"
        )
        if check.verdict == "FAIL"
        and CHECKS.find(check.name).search
        and (check.threat in closed if check.threat else every)
        else check
        for check in checks
    )


def _kept(
    context: Context,
    threat: Threat,
    step: str,
    rows: Sequence[CheckRow],
    attacks: tuple[Attack, ...],
    evidence: Evidence | None = None,
    training: LabelledSet | None = None,
) -> tuple[Check, ...]:
    """Run checks once per run, each a unit of work where it asks the model: a resumed audit reads back those it has."""
    share, store = context.allowance.share(step), context.store
    params = {"share": share} if share < 1.0 else {}
    asked = WorkUnit(step=step, shard=0, kind="check", positions=(), key=context.key, threat=str(threat), params=params)
    units = [dataclasses.replace(asked, shard=number, method=row.name) for number, row in enumerate(rows)]
    if not store.has_fact(step):
        context.progress.begin(step, len(units))
        new = [unit for unit, row in zip(units, rows, strict=True) if row.asks and not store.has_fact(_name(unit))]
        answers = context.engine.run(new, attacks, evidence)
        for unit, row in zip(units, rows, strict=True):  # in their order: the last of them looks at the model's state

            def look(unit: WorkUnit = unit, row: CheckRow = row) -> Any:
                if row.asks:
                    found = next(answers)
                    return {"check": found.document, "cost": to_document(found.cost)}
                examined = examine(looked_at(unit, context.subject, attacks, evidence, training), [row.name])
                return {"check": to_document(examined.checks[0]), "cost": to_document(examined.cost)}

            store.fact(_name(unit), look)
            context.heard()
            context.progress.advance(1)

    def together() -> Any:
        kept = [store.fact(_name(unit), dict) for unit in units]
        spent = sum((from_document(Cost, one["cost"]) for one in kept), Cost())
        return {"checks": [one["check"] for one in kept], "cost": to_document(spent)}

    kept = store.fact(step, together)
    if not store.done(step):  # also after a run that was killed between the two
        store.commit(step, 0, [], from_document(Cost, kept["cost"]))
    return tuple(from_document(Check, document) for document in kept["checks"])


def _name(unit: WorkUnit) -> str:
    """Under which a check of its own is kept."""
    return f"{unit.step}/{unit.method}"
