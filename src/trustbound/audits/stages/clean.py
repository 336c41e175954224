"""The clean pass: predictions, confidences and logits before anybody attacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.attacks.model_access.logit_scale import scale_for, spread
from trustbound.attacks.model_access.oracle import Oracle, default_batch_size
from trustbound.audits.planning.pricing import price
from trustbound.audits.stages.context import Context
from trustbound.errors import InputError
from trustbound.metrics.decision import decide
from trustbound.metrics.margin import margin
from trustbound.tasks.view import seen

STEP = "clean"

#: Examples whose answers say whether a resumed run still asks the same model.
SAMPLE = 8


@dataclass(frozen=True, eq=False)
class Clean:
    """What the model says without an attack.

    Shapes      outputs (N, *O); logits (N, C), which they are in classification, else the scores that they come to;
                prediction (N,); confidence (N,), NaN but for classification; correct (N,) bool, the right answer and
                not rejected by a declared detector; margin (N,) float64; tie (N,) bool, the margin is within rounding
                error, so that another precision may decide otherwise; all on the CPU.
    """

    outputs: Tensor
    logits: Tensor
    prediction: Tensor
    confidence: Tensor
    correct: Tensor
    margin: Tensor
    tie: Tensor


def clean_pass(context: Context) -> Clean:
    """Measure every example once.

    Raises      InputError for logits that are no finite numbers or labels that the model cannot answer.
    """
    context.run(STEP, "clean", torch.arange(len(context.data)))
    task = context.model.task
    parts = list(context.tensors(STEP, whole=True))
    outputs = torch.cat([part["logits"] for part in parts])
    # A run that an earlier version began knows of no detector.
    rejected = torch.cat([part.get("rejected", torch.zeros(len(part["logits"]), dtype=torch.bool)) for part in parts])
    logits, right = seen(task, outputs, context.data.labels)
    prediction, confidence = decide(logits)
    if not task.calibrated:
        confidence = torch.full_like(confidence, torch.nan)
    gaps = margin(logits.double(), right)
    tie = gaps.abs() <= task.rounding_error(outputs, context.data.labels, context.model.precision)
    return Clean(outputs, logits, prediction, confidence, (prediction == right) & ~rejected, gaps, tie)


def logit_scale(context: Context) -> float:
    """The power of two by which surrogate losses see this model's logits, from the median spread of the clean ones.

    One number for each run, written down as a fact: 1 for ordinary networks.
    """

    def measured() -> float:
        parts = list(context.tensors(STEP, whole=True))
        labels = context.data.labels[torch.cat([part["position"] for part in parts])]
        logits, _ = seen(context.model.task, torch.cat([part["logits"] for part in parts]), labels)
        return scale_for(float(spread(logits).median()))

    return float(context.store.fact("logit-unit", measured))


def same_answers(context: Context) -> None:
    """Refuse to go on with evidence of a model that answered otherwise: edited code leaves no other trace.

    Cost        one forward of a few examples.
    Raises      InputError when this run was begun with a model that gave other logits for them.
    """
    rows = torch.arange(min(SAMPLE, len(context.data)))
    with Oracle(context.model, examples=len(rows), key=context.key) as oracle:
        outputs = oracle.outputs(context.inputs(rows), rows).double().cpu().flatten(1)
    known = context.store.fact("first-answers", lambda: [[str(value) for value in row] for row in outputs.tolist()])
    before = torch.tensor([[float(value) for value in row] for row in known], dtype=torch.float64)
    if before.shape != outputs.shape or not bool(
        ((before - outputs).abs().le(_reach(before)) | before.eq(outputs) | (before.isnan() & outputs.isnan())).all()
    ):
        raise InputError(
            f"the run directory {context.store.run} holds evidence of a model that answered these examples otherwise: "
            "its code was changed since. Choose another --run, or remove the directory."
        )


def _reach(logits: Tensor) -> Tensor:
    """How far the same model's logits (B, C) may move when kernels or threads change: (B, 1).

    A thousandth of the spread of a row, whatever its scale, and what float32 loses where all of a row is shifted.
    """
    # A single number has no spread of its own: that of all rows takes its place.
    like = logits if logits.shape[1] > 1 else logits.reshape(1, -1)
    spread = like.amax(dim=1, keepdim=True) - like.amin(dim=1, keepdim=True)
    return 1e-3 * spread + 64 * torch.finfo(torch.float32).eps * logits.abs().amax(dim=1, keepdim=True)


def backward_cost(context: Context) -> float:
    """r: what a backward to the inputs costs in forwards, measured on this model, machine and batch size."""
    rows = torch.arange(min(len(context.data), context.batch_size or default_batch_size(context.model)))
    inputs, labels = context.inputs(rows), context.labels(rows)
    return price(context.model, inputs, labels, batch_size=context.batch_size, key=context.key).backward
