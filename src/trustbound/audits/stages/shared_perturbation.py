"""Perturbations that all inputs share: fitted to one half of the examples, scored on both, told in numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from trustbound.attacks.shared.perturbation import SharedPerturbation, around_nothing
from trustbound.audits.stages.context import Context
from trustbound.audits.work_units.attack import attacked
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.record.audit import SharedFacts
from trustbound.record.store import EvidenceRow
from trustbound.threat import Threat


@dataclass(frozen=True, eq=False)
class Sharing:
    """One shared attack under one threat: `fitting` and `scoring` are its steps' names.

    Parameters
        most    examples that it is fitted to at most, all of them in one unit.
    """

    context: Context
    threat: Threat
    method: str
    most: int

    @property
    def fitting(self) -> str:
        """The step in which it is fitted."""
        return f"{self.method}-fit"

    @property
    def scoring(self) -> str:
        """The step in which it is scored."""
        return self.method

    def halves(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """The examples it is fitted to, half of those asked about, drawn at random; and the held-out ones."""
        fitted = self.context.drawn(self.fitting, asked, min(len(asked) // 2, self.most))
        chosen = set(fitted.tolist())
        return fitted, asked[[position not in chosen for position in asked.tolist()]]

    def fit(self, fitted: Tensor) -> list[EvidenceRow]:
        """What fitting took."""
        step = f"{self.threat}/{self.fitting}"
        return self.context.run(step, "fit", fitted, method=self.method, threat=self.threat, examples=self.most)

    def perturbation(self) -> Tensor | None:
        """What was fitted, (*F); None where the attack was refused."""
        kept = [part["perturbation"][0] for part in self.context.tensors(f"{self.threat}/{self.fitting}")]
        return kept[0] if kept else None

    def score(self, perturbation: Tensor, asked: Tensor) -> list[EvidenceRow]:
        """Whom it breaks: each success is measured again like any other."""
        model = self.context.model
        shared = SharedPerturbation(
            method=self.method,
            perturbation=perturbation.to(model.device),
            threat=self.threat,
            box=model.box,
        )

        def work(unit: WorkUnit) -> UnitResult:
            return attacked(shared, replace(unit, threat=str(self.threat)), self.context.subject)

        return self.context.here(f"{self.threat}/{self.scoring}", asked, work)

    def facts(
        self, perturbation: Tensor, fitted: Tensor, held: Tensor, rows: list[EvidenceRow], key: str
    ) -> SharedFacts:
        """The record's entry."""
        broken = {row.position for row in rows if row.found}
        fooled = [sum(position in broken for position in half.tolist()) for half in (fitted, held)]
        nothing = around_nothing(self.threat, self.context.model.box, perturbation[None])
        store = self.context.store
        return SharedFacts(
            threat=str(self.threat),
            method=self.method,
            size=float(nothing.size(perturbation[None])[0]),
            fitted=len(fitted),
            fooled_fitted=fooled[0],
            held_out=len(held),
            fooled_held_out=fooled[1],
            cost=store.cost(f"{self.threat}/{self.fitting}") + store.cost(f"{self.threat}/{self.scoring}"),
            key=key,
        )
