"""What a few examples say before an audit begins: prices, and how many examples its steps will be about."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.attacks import Attack, AttackResult, attack, build
from trustbound.attacks.model_access.oracle import default_batch_size, price_of
from trustbound.attacks.suites import suite
from trustbound.audits.planning.pricing import at_most, price
from trustbound.audits.planning.schedule import PARAMS
from trustbound.audits.stages.proving import at_least
from trustbound.audits.work_units.draws import derived_key, drawn
from trustbound.audits.work_units.subject import Subject
from trustbound.certificates import certify
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import TrustboundError
from trustbound.threat import Threat

#: Examples at most and at least; seconds that the first attack and one certifier may take on them.
EXAMPLES, LEAST, SECONDS = 64, 8, 3.0


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is expected under one threat.

    Parameters
        standing    of all examples, the share that the first stage of a search leaves.
        proofs      seconds for an example, by certifier.
        blocks      examples of a certifier's first block.
        certified   of the examples that stand, the share that a certifier proves.
    """

    standing: float
    proofs: Mapping[str, float] = field(default_factory=dict)
    certified: Mapping[str, float] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Prices of a model on this machine, and what is expected under each threat, by its text.

    Parameters
        forward     seconds of an example.
        backward    one to the inputs, in forwards.
        correct     share of the examples that are classified correctly.
        overhead    seconds of a call, whatever the number of its examples.
    """

    forward: float
    backward: float
    correct: float
    overhead: float
    prospects: Mapping[str, Prospect]


def pilot(
    subject: Subject, certifiers: Mapping[str, Sequence[str]], batch_size: int | None = None, seed: int = 0
) -> Pilot:
    """Time a forward and a backward, and run the first attack and each certifier on a few examples.

    Parameters
        certifiers  that the audit will use, by threat.
        batch_size  rows of a call at most.

    Cost        about `SECONDS` for the attack of each threat, and for each certifier; more where a single example
                takes longer.
    """
    model, data = subject.model, subject.data
    rows = torch.arange(min(len(data), batch_size or default_batch_size(model)))
    found = price(model, subject.inputs(rows), subject.labels(rows), batch_size=batch_size)
    single = found.forward / model.adaptation.draws
    chosen = drawn(derived_key(seed, "pilot"), "pilot", data, torch.arange(len(data)), EXAMPLES)
    prospects: dict[str, Prospect] = {}
    correct, overheads = 1.0, [0.0]
    for name, threat in subject.threats.items():
        sample = chosen[: _affordable(subject, threat, found.forward, found.backward)]
        right, standing, seconds = _attacked(subject, threat, sample, batch_size)
        forwards, backwards = at_most(_opening(threat, subject))
        evaluated = price_of(model) * forwards + found.backward * backwards
        overheads.append((seconds - single * evaluated * len(sample)) / forwards)
        if not prospects:
            correct = float(right.double().mean())
        proofs, certified = {}, {}
        stands = sample[standing] if bool(standing.any()) else sample[right] if bool(right.any()) else sample
        for certifier in certifiers.get(name, ()):
            proofs[certifier], certified[certifier] = _proven(subject, threat, certifier, stands)
        prospects[name] = Prospect(
            standing=float(standing.double().mean()),
            proofs=proofs,
            certified=certified,
            blocks={certifier: at_least(subject, certifier) for certifier in proofs},
        )
    return Pilot(forward=single, backward=found.backward, correct=correct, overhead=max(overheads), prospects=prospects)


def _opening(threat: Threat, subject: Subject) -> Attack:
    """The first stage of the quick budget: with one run of it, most of what breaks is broken."""
    stage = next(stage for stage in suite("quick", threat, subject.model.task) if not stage.control)
    name, params = stage.method(smooth=True)
    return build(name, **params)


def _affordable(subject: Subject, threat: Threat, forward: float, backward: float) -> int:
    forwards, backwards = at_most(_opening(threat, subject))
    seconds = forward * (price_of(subject.model) * forwards + backward * backwards)
    return max(LEAST, min(EXAMPLES, int(SECONDS / max(seconds, 1e-9))))


def _attacked(subject: Subject, threat: Threat, sample: Tensor, batch_size: int | None) -> tuple[Tensor, Tensor, float]:
    """Which of the sample are correct, and which of them the opening leaves, (S,) bool each; and its seconds."""
    method = _opening(threat, subject)

    def run(rows: Tensor) -> AttackResult:
        inputs, labels = subject.inputs(rows), subject.labels(rows)
        return attack(method, subject.model, inputs, labels, threat, stop_early=False, batch_size=batch_size)

    try:
        run(sample[:2])  # what is made once is no part of the price
        started = time.perf_counter()
        found = run(sample)
    except TrustboundError:  # nothing can be said before the audit says why
        everything = torch.ones(len(sample), dtype=torch.bool)
        return everything, everything, 0.0
    spent = time.perf_counter() - started
    right = ~(found.success & (found.size == 0))
    return right.cpu(), (right & ~found.success).cpu(), spent


def _proven(subject: Subject, threat: Threat, certifier: str, stands: Tensor) -> tuple[float, float]:
    """Seconds of a certifier for one example, and the share that it proves: of one, two, four … while time is left."""
    dear = CERTIFIERS.find(certifier).quadratic
    count = min(len(stands), 1 if dear else len(stands))
    while True:
        started = time.perf_counter()
        certified = _certified(subject, threat, certifier, stands[:count])
        spent = time.perf_counter() - started
        if count == len(stands) or 3 * spent > SECONDS:
            return spent / count, certified / count
        count = min(len(stands), 2 * count)


def _certified(subject: Subject, threat: Threat, certifier: str, rows: Tensor) -> int:
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
    except TrustboundError:  # refused: the audit says why
        return 0
    return int(found.certified.sum())
