"""What a certifier promises, as a few examples tell: its price, what it proves, and how far it is from proving more."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.planning.schedule import PARAMS
from trustbound.audits.stages.proving import long
from trustbound.audits.work_units.subject import Subject
from trustbound.certificates import certify
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import TrustboundError
from trustbound.metrics.margin import margin
from trustbound.tasks.view import right_answers
from trustbound.threat import Threat

#: Examples that a certifier is tried on first: of dear ones one alone.
FIRST = 8

#: A bound that loses so many clean margins proves nothing at the smallest size of the curve, if what is lost grows as
#: the square of the size; one that loses no more than the second proves half of epsilon, and all of it, perhaps, among
#: the largest margins.
OUT_OF_REACH, NEAR = 256.0, 4.0

#: Examples of a curve, of whose radii it is told whether they take long.
CURVE = 100


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Of one certifier, on the examples that stand.

    Parameters
        seconds     for an example.
        certified   the share that it proves.
        near        the share whose bound loses few clean margins: among the largest margins more may be proven.
        reach       the share that it may prove at some size of the curve, of dear ones at one that moves it.
        tried       False where there was no time, and the seconds are told from the network's sizes.
    """

    seconds: float
    certified: float = 0.0
    near: float = 0.0
    reach: float = 1.0
    tried: bool = True


def outlook(subject: Subject, threat: Threat, certifier: str, stands: Tensor, seconds: float) -> Outlook:
    """Try a certifier on one example (where it is cheap, eight), twice as many … while time is left."""
    row = CERTIFIERS.find(certifier)
    count = min(len(stands), 1 if row.quadratic else FIRST)
    while True:
        started = time.perf_counter()
        found = _bounds(subject, threat, certifier, stands[:count])
        spent = time.perf_counter() - started
        if count == len(stands) or 3 * spent > seconds:
            break
        count = min(len(stands), 2 * count)
    if found is None:  # refused: the audit says why
        return Outlook(seconds=spent / count, reach=0.0)
    certified, bound = found
    lost = _lost(subject, stands[:count], bound)
    most = NEAR if long(subject, certifier, CURVE) else OUT_OF_REACH
    return Outlook(
        seconds=spent / count,
        certified=_share(certified),
        near=_share(certified | (lost <= NEAR)) if row.layers else 1.0,
        reach=_share(certified | (lost <= most)) if row.layers else 1.0,
    )


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _lost(subject: Subject, rows: Tensor, bound: Tensor) -> Tensor:
    """What bounds (S,) lose of the clean margins, in clean margins; infinite where nothing is known."""
    model, labels = subject.model, subject.labels(rows)
    view, right = right_answers(model.task, labels)
    try:
        with Oracle(model, examples=len(rows), task="the trial of a certifier", view=view) as oracle:
            clean = margin(oracle.outputs(subject.inputs(rows), torch.arange(len(rows))).double(), right).cpu()
    except TrustboundError:
        return torch.full_like(bound, math.inf)
    return torch.where(clean > 0, (clean - bound) / clean, math.inf).nan_to_num(math.inf, math.inf, -math.inf)


def _bounds(subject: Subject, threat: Threat, certifier: str, rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Which are certified, (S,) bool, and the bounds of their margins, (S,) float64."""
    try:
        found = certify(
            certifier,
            subject.bounded(certifier),
            subject.inputs(rows),
            subject.labels(rows),
            threat,
            box=subject.model.box,
            task=subject.model.task,
            **PARAMS.get(certifier, {}),
        )
    except TrustboundError:
        return None
    return found.certified.cpu(), found.margin.cpu()
