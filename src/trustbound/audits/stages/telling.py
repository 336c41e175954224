"""What an audit tells of each example, of its most telling ones, and of the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from trustbound.audits.stages.clean import Clean
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.ledger import Ledger
from trustbound.data.labelled import LabelledSet
from trustbound.metrics.decision import NO_ANSWER, decide
from trustbound.metrics.margin import margin
from trustbound.model.files.origin import Origin
from trustbound.model.wrapping import Model
from trustbound.record.audit import ExampleRow, Exhibit, ModelFacts
from trustbound.tasks.view import seen
from trustbound.threat import Threat

#: Pictures in the gallery, per threat.
EXHIBITS = 6


def example_rows(context: Context, threat: Threat, ledger: Ledger, clean: Clean, outputs: Tensor) -> list[ExampleRow]:
    """One row an example: what it was taken for, its verdict, who settled it, at what size.

    Parameters
        outputs     (N, *O) on the witnesses, the clean ones where there is none.
    """
    task, labels = context.model.task, context.data.labels
    prediction, confidence = decide(seen(task, outputs, labels)[0])
    told, attacked = task.payload(clean.outputs, labels), task.payload(outputs, labels)
    of_label = task.described(labels)
    rows = []
    for place in range(len(clean.correct)):
        verdict = ledger.verdict(place)
        broken = verdict == "broken"
        spoke = broken and int(prediction[place]) != NO_ANSWER
        settled = {"broken": ledger.broken_by[place], "certified": ledger.certified_by[place]}.get(verdict, "")
        rows.append(
            ExampleRow(
                threat=str(threat),
                index=int(context.data.indices[place]),
                label=int(labels[place]) if task.plain else None,
                prediction=int(clean.prediction[place]) if task.plain else None,
                confidence=float(clean.confidence[place]) if task.calibrated else None,
                verdict=verdict,
                settled_by=settled.removeprefix(f"{threat}/"),
                size=float(ledger.size[place]) if broken else None,
                adversarial_prediction=int(prediction[place]) if spoke and task.plain else None,
                adversarial_confidence=float(confidence[place]) if spoke and task.calibrated else None,
                margin=_finite(ledger.margin[place]),
                certified_margin=_finite(ledger.proven_margin[place]),
                tie=bool(ledger.tie[place] | clean.tie[place]),
                rounded=bool(ledger.rounded[place]) and verdict != "certified",
                detail={
                    **of_label[place],
                    **told[place],
                    **({f"adversarial_{name}": value for name, value in attacked[place].items()} if broken else {}),
                },
            )
        )
    return rows


def _finite(value: Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def exhibits(
    context: Context,
    threat: Threat,
    ledger: Ledger,
    clean: Clean,
    outputs: Tensor,
    found: dict[int, Tensor],
    pictures: dict[str, Tensor],
) -> list[Exhibit]:
    """The most confidently wrong adversarial examples, one of each true class first; without classes the most wrong.

    Inputs to which the model gave no answer are left out: there is no answer to show.
    """
    task, labels = context.model.task, context.data.labels
    logits, right = seen(task, outputs, labels)
    prediction, confidence = decide(logits)
    wrong = confidence if task.calibrated else -margin(logits, right)
    spoke = [place for place in found if int(prediction[place]) != NO_ANSWER]
    ranked = sorted(spoke, key=lambda place: -float(wrong[place]))
    first: dict[int, int] = {}
    for place in ranked:
        first.setdefault(int(labels[place]) if task.plain else place, place)
    chosen = sorted(first.values(), key=lambda place: -float(wrong[place]))
    chosen += [place for place in ranked if place not in set(chosen)]
    told, attacked, of_label = (
        task.payload(clean.outputs, labels),
        task.payload(outputs, labels),
        task.described(labels),
    )
    exhibits: list[Exhibit] = []
    for place in chosen[:EXHIBITS]:
        key = f"{sum(name.startswith('clean/') for name in pictures):03d}"
        pictures[f"clean/{key}"] = context.data.batch([place])[0].float().contiguous()
        pictures[f"adversarial/{key}"] = found[place].float().cpu().contiguous()
        one = slice(place, place + 1)
        for state, said in (("clean", clean.outputs[one]), ("adversarial", outputs[one])):
            for name, drawn in task.pictures(said, labels[one]).items():
                pictures[f"{state}-{name}/{key}"] = drawn[0].float().cpu().contiguous()
        exhibits.append(
            Exhibit(
                threat=str(threat),
                key=key,
                index=int(context.data.indices[place]),
                label=int(labels[place]) if task.plain else None,
                clean_prediction=int(clean.prediction[place]) if task.plain else None,
                clean_confidence=float(clean.confidence[place]) if task.calibrated else None,
                adversarial_prediction=int(prediction[place]) if task.plain else None,
                adversarial_confidence=float(confidence[place]) if task.calibrated else None,
                size=float(ledger.size[place]),
                broken_by=ledger.broken_by[place].removeprefix(f"{threat}/"),
                detail={
                    **of_label[place],
                    **told[place],
                    **{f"adversarial_{name}": value for name, value in attacked[place].items()},
                },
            )
        )
    return exhibits


def model_facts(model: Model, clean: Clean, data: LabelledSet, no_double: str, logit_scale: float) -> ModelFacts:
    """What was audited.

    Parameters
        no_double   why there is no float64 copy, empty where there is one or none is wanted.
        logit_scale the power of two by which surrogate losses saw the logits.
    """
    origin = getattr(model, "origin", None)
    precision = str(model.precision).removeprefix("torch.")
    own = f"successes are measured, and ties judged, in the model's own precision, {precision}"
    notes = () if origin is None else _origin(origin)
    if model.adaptation.detector is not None:
        notes = (_DETECTOR, *notes)
    if no_double:
        notes = (*notes, f"no float64 copy: {no_double}; {own}")
    elif model.precision not in (torch.float32, torch.float64):
        notes = (*notes, own)
    if logit_scale != 1.0:
        notes = (
            *notes,
            f"the scale of the logits is out of the ordinary: surrogate losses saw them times {logit_scale:g}",
        )
    return ModelFacts(
        name=model.name,
        sha256=model.sha256,
        parameters=sum(weight.numel() for weight in model.module.parameters()),
        classes=clean.outputs.shape[1],
        input_shape=tuple(data.shape),
        box=(float(torch.as_tensor(model.box.low).min()), float(torch.as_tensor(model.box.high).max())),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        notes=notes,
    )


_DETECTOR = (
    "a detector is declared: an input that it rejects is no success, and a clean input that it rejects is not answered "
    "rightly; proofs are about the model without it, and hold with it"
)


def _origin(origin: Origin) -> tuple[str, ...]:
    """What was read and run to make the model: each file with its digest, as `sha256sum` prints it."""
    said = [f"read {Path(path).name}, SHA-256 {digest}" for path, digest in origin.files]
    if origin.arguments:
        said.append(f"called with {json.dumps(origin.arguments, sort_keys=True, default=repr)}")
    return (*said, *(f"executed {what}" for what in origin.executed))
