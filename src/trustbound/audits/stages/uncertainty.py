"""Predictive uncertainty, clean and on the adversarial inputs that were found."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from trustbound.audits.stages.clean import Clean
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.audits.work_units.unit import UnitResult, WorkUnit
from trustbound.metrics.decision import decide
from trustbound.record.cost import Cost
from trustbound.record.scores import UncertaintyReport
from trustbound.record.store import EvidenceRow
from trustbound.tasks.view import seen
from trustbound.threat import Threat
from trustbound.uncertainty.assess import assess

#: Fewer examples than this say nothing about calibration.
LEAST = 20


def witnesses(context: Context, threat: Threat, verdicts: Verdicts) -> dict[int, Tensor]:
    """The first witness of each broken example, by position."""
    wanted = {position: step for position, step in enumerate(verdicts.broken_by) if step}
    found: dict[int, Tensor] = {}
    for step in sorted(set(wanted.values())):
        for part in context.tensors(step):
            if "adversarial" not in part:
                continue
            for position, adversarial in zip(part["position"].tolist(), part["adversarial"], strict=True):
                if wanted.get(position) == step:
                    found[position] = adversarial
    return found


def attacked_outputs(context: Context, threat: Threat, verdicts: Verdicts, clean: Clean) -> Tensor:
    """Outputs (N, *O) on the witnesses, the clean ones where there is none; logits of a classification."""
    found, task = witnesses(context, threat, verdicts), context.model.task
    kept = clean.outputs.clone()
    step = f"{threat}/attacked"
    positions = torch.tensor(sorted(found), dtype=torch.int64)
    if not len(positions):
        return kept

    def work(unit: WorkUnit) -> UnitResult:
        started = time.perf_counter()
        inputs = torch.stack([found[position] for position in unit.positions]).to(context.model.device)
        window = context.subject.oracle(unit, silenced=context.inputs(unit.rows))
        with window as oracle, oracle.booking("uncertainty"):
            outputs = oracle.outputs(inputs, torch.arange(len(inputs)))
            cost = oracle.cost + Cost(seconds=time.perf_counter() - started)
        labels = context.labels(unit.rows)
        prediction, confidence = decide(seen(task, outputs, labels)[0])
        sure = confidence.tolist() if task.calibrated else [None] * len(labels)
        columns = (unit.positions, prediction.tolist(), sure, task.payload(outputs, labels))
        evidence = [
            EvidenceRow(position=position, found=False, prediction=chosen, confidence=share, forwards=1, payload=told)
            for position, chosen, share, told in zip(*columns, strict=True)
        ]
        silent = int((~outputs.flatten(1).isfinite().all(dim=1)).sum())
        said = f"{silent} adversarial inputs have no finite {task.called}"
        said += ": calibration under attack is not measured" if task.calibrated else ""
        return UnitResult(
            rows=evidence,
            cost=cost,
            tensors={"position": unit.rows, "logits": outputs},
            events=(said,) if silent else (),
        )

    context.here(step, positions, work)
    for part in context.tensors(step, whole=True):
        kept[part["position"]] = part["logits"].to(kept.dtype)
    return kept


def uncertainty_report(context: Context, clean: Clean, attacked: Tensor | None) -> UncertaintyReport | None:
    """Scores of the softmax network; None with too few examples, and for a task without a confidence.

    The clean logits are finite, as the clean pass saw to it; where attacked ones are not, which `attacked_logits` has
    noted, the clean scores stand alone.
    """
    if len(clean.logits) < LEAST or not context.model.task.calibrated:
        return None
    if attacked is not None and not bool(attacked.isfinite().all()):
        attacked = None
    return assess(clean.logits, context.data.labels, attacked, seed=context.seed)
