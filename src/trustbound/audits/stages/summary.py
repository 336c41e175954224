"""Summary of an audit: a row for each example, the exhibits of the gallery, facts about the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

from trustbound.audits.stages.clean import Clean
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.verdicts import Verdicts
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


def example_rows(
    context: Context, threat: Threat, verdicts: Verdicts, clean: Clean, outputs: Tensor
) -> list[ExampleRow]:
    """One row an example: what it was taken for, its verdict, who settled it, at what size.

    Parameters
        outputs     (N, *O) on the witnesses, the clean ones where there is none.
    """
    task, labels = context.model.task, context.data.labels
    prediction, confidence = decide(seen(task, outputs, labels)[0])
    told, attacked = task.payload(clean.outputs, labels), task.payload(outputs, labels)
    of_label = task.described(labels)
    spent, sure = context.store.spent_on(f"{threat}/"), _says_how_sure(context.model)
    rows = []
    for position in range(len(clean.correct)):
        verdict = verdicts.verdict(position)
        broken = verdict == "broken"
        forwards, backwards, queries = spent.get(position, (0, 0, 0))
        spoke = broken and int(prediction[position]) != NO_ANSWER
        settled = {"broken": verdicts.broken_by[position], "certified": verdicts.certified_by[position]}.get(
            verdict, ""
        )
        rows.append(
            ExampleRow(
                threat=str(threat),
                index=int(context.data.indices[position]),
                label=int(labels[position]) if task.plain else None,
                prediction=int(clean.prediction[position]) if task.plain else None,
                confidence=float(clean.confidence[position]) if sure else None,
                verdict=verdict,
                settled_by=settled.removeprefix(f"{threat}/"),
                size=float(verdicts.size[position]) if broken else None,
                adversarial_prediction=int(prediction[position]) if spoke and task.plain else None,
                adversarial_confidence=float(confidence[position]) if spoke and sure else None,
                margin=_finite(verdicts.margin[position]),
                certified_margin=_finite(verdicts.proven_margin[position]),
                tie=bool(verdicts.tie[position] | clean.tie[position]),
                rounded=bool(verdicts.rounded[position]) and verdict != "certified",
                radius=_radius(verdicts, position, threat.perturbations.epsilon),
                forwards=forwards,
                backwards=backwards,
                queries=queries,
                detail={
                    **of_label[position],
                    **told[position],
                    **({f"adversarial_{name}": value for name, value in attacked[position].items()} if broken else {}),
                },
            )
        )
    return rows


def _radius(verdicts: Verdicts, position: int, epsilon: float) -> float | None:
    """The largest size at which an example is proven."""
    known = [verdicts.radii[position]] if position in verdicts.radii else []
    known += [epsilon] if verdicts.certified_by[position] and math.isfinite(epsilon) else []
    return max(known, default=None)


def _finite(value: Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def exhibits(
    context: Context,
    threat: Threat,
    verdicts: Verdicts,
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
    sure = _says_how_sure(context.model)
    wrong = confidence if task.calibrated else -margin(logits, right)
    spoke = [position for position in found if int(prediction[position]) != NO_ANSWER]
    ranked = sorted(spoke, key=lambda position: -float(wrong[position]))
    first: dict[int, int] = {}
    for position in ranked:
        first.setdefault(int(labels[position]) if task.plain else position, position)
    chosen = sorted(first.values(), key=lambda position: -float(wrong[position]))
    chosen += [position for position in ranked if position not in set(chosen)]
    told, attacked, of_label = (
        task.payload(clean.outputs, labels),
        task.payload(outputs, labels),
        task.described(labels),
    )
    exhibits: list[Exhibit] = []
    for position in chosen[:EXHIBITS]:
        key = f"{sum(name.startswith('clean/') for name in pictures):03d}"
        pictures[f"clean/{key}"] = context.data.batch([position])[0].float().contiguous()
        pictures[f"adversarial/{key}"] = found[position].float().cpu().contiguous()
        one = slice(position, position + 1)
        for state, said in (("clean", clean.outputs[one]), ("adversarial", outputs[one])):
            for name, drawn in task.pictures(said, labels[one]).items():
                pictures[f"{state}-{name}/{key}"] = drawn[0].float().cpu().contiguous()
        exhibits.append(
            Exhibit(
                threat=str(threat),
                key=key,
                index=int(context.data.indices[position]),
                label=int(labels[position]) if task.plain else None,
                clean_prediction=int(clean.prediction[position]) if task.plain else None,
                clean_confidence=float(clean.confidence[position]) if sure else None,
                adversarial_prediction=int(prediction[position]) if task.plain else None,
                adversarial_confidence=float(confidence[position]) if sure else None,
                size=float(verdicts.size[position]),
                broken_by=verdicts.broken_by[position].removeprefix(f"{threat}/"),
                detail={
                    **of_label[position],
                    **told[position],
                    **{f"adversarial_{name}": value for name, value in attacked[position].items()},
                },
            )
        )
    return exhibits


def _says_how_sure(model: Model) -> bool:
    """Whether outputs hold a confidence: not where they are decisions alone."""
    return model.task.calibrated and model.shows != "decisions"


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
