"""Determinism: a row's outputs depend on the row, not on the moment, the rest of the batch or the order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding
from trustbound.audits.checks.probe import coarsest
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Determinism(EvaluationCheck[Before]):
    """Ask for the same rows again: same batch, other order, halves, alone.

    Measures    largest change of an output over how far the best output stands above the row's middle (mean over
                rows; a class that is masked with -1e9 does not count as spread), less what rounding explains: 8 eps of
                the coarsest type that the forward computes in, at the size of each output. A decision that changes
                beyond that is at least a WARN, whatever the spread.
    Batches     a model that refuses smaller batches was not compared there: a WARN that says so, and a FAIL where a
                batch norm in train mode is why.
    Catches     dropout left on, batch norm in train mode (halves and singles differ), random resizing, added
                noise. A model that declares its randomness (`Adaptation(draws=…)`) is at most a WARN.
    Cost        4 forwards per example, and `alone` more.

    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Threat
    >>> context = Before(
    ...     model=wrap(torch.nn.Dropout(0.5)),
    ...     inputs=torch.rand(16, 4),
    ...     labels=torch.zeros(16, dtype=torch.int64),
    ...     threat=Threat.parse("linf:0.1"),
    ... )
    >>> Determinism().measure(context).value > 0.1
    True
    """

    name: ClassVar[str] = "determinism"

    examples: int = 64
    alone: int = 8

    def measure(self, context: Before) -> Finding:
        """Compare five ways of asking."""
        sample = context.sample(self.examples)
        inputs = sample.inputs.to(context.model.device)
        places = torch.arange(len(inputs))
        order = torch.randperm(len(inputs), generator=context.generator())
        half = max(len(inputs) // 2, 1)
        changes: dict[str, float] = {}
        beyond: dict[str, float] = {}
        rounding = 8 * coarsest(context.model, inputs[:2])
        flips = 0
        refused = ""
        with Oracle(context.model, examples=len(inputs), batch_size=len(inputs), key=context.key) as oracle:
            first = oracle.outputs(inputs, places)
            spread = float((first.amax(dim=1) - first.median(dim=1).values).double().mean()) or 1.0

            def compare(name: str, outputs: Tensor, rows: Tensor) -> None:
                nonlocal flips
                before = first[rows.to(first.device)]
                changes[name] = float((outputs - before).abs().max()) / spread
                beyond[name] = (
                    float(((outputs - before).abs() - rounding * before.abs().clamp(min=spread)).max()) / spread
                )
                flips = max(flips, int((outputs.argmax(dim=1) != before.argmax(dim=1)).sum()))

            compare("again", oracle.outputs(inputs, places), places)
            compare("in another order", oracle.outputs(inputs[order], order), order)
            try:
                halves = [oracle.outputs(inputs[part], part) for part in places.split(half)]
                compare("in halves", torch.cat(halves), places)
                few = places[: self.alone]
                compare("alone", torch.cat([oracle.outputs(inputs[row], row) for row in few.split(1)]), few)
            except (ValueError, RuntimeError) as error:
                cause = error.__cause__ or error  # the model's own words
                refused = (f"{type(cause).__name__}: {cause}".splitlines() or ["no message"])[0]
        worst = max(beyond, key=lambda name: math.inf if math.isnan(beyond[name]) else beyond[name])
        value = 0.0 if beyond[worst] <= 0.0 else beyond[worst]  # NaN stays
        live = training_parts(context.model)
        text = f"outputs move by at most {changes[worst]:.2g} of their spread (asked {worst}), {flips} of "
        text += f"{len(inputs)} decisions change"
        if refused:
            text += f"; smaller batches could not be compared: the model refused them ({refused})"
        if live:
            text += f"; in train mode: {', '.join(live[:4])}{' …' if len(live) > 4 else ''}"
        declared = context.model.adaptation.draws > 1
        return Finding(
            value=1.0 if refused and live else value,
            finding=text,
            advice=_advice(live, declared=declared, refused=bool(refused) and value == 0.0),
            evidence={"changes": changes, "flips": flips, "train_mode": live},
            cost=oracle.cost + Cost(forwards=context.model.adaptation.draws * len(inputs[:2])),
            at_least="WARN" if refused or (flips and value > 0.0) else "PASS",
            at_most="WARN" if declared else "FAIL",
        )


def training_parts(model: Model) -> list[str]:
    """Modules whose outputs depend on the mode and that are in train mode, as "path (Type)".

    >>> from trustbound.model.wrapping import wrap
    >>> training_parts(wrap(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())))
    ['1 (Dropout)']
    """
    return [
        f"{path or 'the model'} ({type(part).__name__})"
        for path, part in model.module.named_modules()
        if part.training and isinstance(part, _BatchNorm | _DropoutNd)
    ]


def _advice(live: list[str], *, declared: bool, refused: bool) -> str:
    if live:
        return f"call module.eval() before wrapping it: {', '.join(live[:4])} still run in train mode."
    if refused:
        return "let the model take batches of any size, one example included: searches drop the rows that are done."
    if declared:
        return "the randomness is declared and averaged over; raise `draws` until verdicts stop changing."
    return (
        "a random defence must be attacked in expectation: declare it (--draws, Adaptation(draws=…)), or fix its "
        "randomness. "
        "Single runs of it over-state robustness."
    )
