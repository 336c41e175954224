"""What a few examples say before an audit begins: prices, and how many examples its steps will be about."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trustbound.attacks import Attack, AttackResult, attack, build
from trustbound.attacks.model_access.oracle import default_batch_size, price_of
from trustbound.attacks.suites import suite
from trustbound.audits.planning.outlook import Outlook, outlook
from trustbound.audits.planning.pricing import LEAST as LEAST_PAIRS
from trustbound.audits.planning.pricing import Price, apart, at_most, calls, price
from trustbound.audits.stages.proving import at_least, estimated, sampled
from trustbound.audits.work_units.draws import derived_key, drawn
from trustbound.audits.work_units.subject import Subject
from trustbound.errors import TrustboundError
from trustbound.threat import Threat

#: Examples at most and at least; seconds that the first attack and one certifier may take on them.
EXAMPLES, LEAST, SECONDS = 64, 8, 3.0

#: Of a time that is given to the whole trial, the share that measuring calls, and the first attacks, may take.
CALLS, ATTACKS = 0.2, 0.4


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is expected under one threat.

    Parameters
        standing    of all examples, the share that the first stage of a search leaves.
        used        of the forwards that the first attack may take, the share that it took.
        rows        examples on which certifiers are tried, by position.
        outlooks    what each certifier promises, in the order in which they were tried.
        blocks      examples of a certifier's first block.
        samples     examples whose radii a dear certifier is asked first.
    """

    standing: float
    used: float = 1.0
    rows: tuple[int, ...] = ()
    outlooks: Mapping[str, Outlook] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """Prices of a model on this machine, and what is expected under each threat, by its text.

    Parameters
        subject     that was tried.
        forward     seconds of an example.
        backward    one to the inputs, in forwards.
        crowded     seconds of an example whose call is full, however few examples there are.
        correct     share of the examples that are classified correctly.
        overhead    seconds of a call, whatever the number of its examples.
    """

    subject: Subject
    forward: float
    backward: float
    crowded: float
    correct: float
    overhead: float
    prospects: Mapping[str, Prospect]

    def proving(self, certifiers: Mapping[str, Sequence[str]], limit: float = math.inf) -> Pilot:
        """With certifiers that were not tried yet, by threat, tried; one that no time is left for is estimated."""
        started, prospects = time.perf_counter(), dict(self.prospects)
        for threat, names in certifiers.items():
            prospect = prospects[threat]
            rows, outlooks = torch.tensor(prospect.rows, dtype=torch.int64), dict(prospect.outlooks)
            for name in names:
                left = limit - (time.perf_counter() - started)
                about = estimated(self.subject, name)
                if name in outlooks:
                    continue
                if left < about or left <= 0.0:
                    outlooks[name] = Outlook(seconds=about, tried=False)
                else:
                    asked = self.subject.threats[threat]
                    outlooks[name] = outlook(self.subject, asked, name, rows, min(SECONDS, left))
            blocks = {name: at_least(self.subject, name) for name in outlooks}
            samples = {name: sampled(self.subject, name) for name in outlooks}
            prospects[threat] = replace(prospect, outlooks=outlooks, blocks=blocks, samples=samples)
        return replace(self, prospects=prospects)


def pilot(subject: Subject, batch_size: int | None = None, seed: int = 0, limit: float = math.inf) -> Pilot:
    """Time a forward and a backward, and run the first attack of each threat on a few examples.

    Parameters
        batch_size  rows of a call at most.
        limit       seconds that all of it, and certifiers tried afterwards, may take.

    Cost        about `SECONDS` for the attack of each threat, less where the limit is; more where the least number
                of examples takes longer.
    """
    model, data = subject.model, subject.data
    most = batch_size or default_batch_size(model)
    measuring = min(1.0, CALLS * limit)
    first = torch.arange(1)
    call = 0.0 if limit == math.inf else _both(price(model, subject.inputs(first), subject.labels(first), limit=0.0))
    rows = torch.arange(min(len(data), most))
    if call:  # as many as the least number of forwards and backwards can be timed with
        rows = rows[: max(1, int(measuring / (2 * LEAST_PAIRS * call)))]
    inputs, labels = subject.inputs(rows), subject.labels(rows)
    found = price(model, inputs, labels, batch_size=batch_size, limit=measuring)
    draws = model.adaptation.draws
    single = crowded = found.forward / draws
    if len(rows) < most and any(apart(_opening(threat, subject))[1] for threat in subject.threats.values()):
        full = torch.arange(most) % len(rows)  # rows of one example fill its calls
        crowded = price(model, inputs[full], labels[full], batch_size=most, limit=0.0).forward / draws
    chosen = drawn(derived_key(seed, "pilot"), "pilot", data, torch.arange(len(data)), EXAMPLES)
    prospects: dict[str, Prospect] = {}
    correct, overheads = 1.0, [0.0]
    allowed = min(SECONDS, ATTACKS * limit / len(subject.threats))
    for name, threat in subject.threats.items():
        opening = _opening(threat, subject)
        count = _affordable(subject, opening, found, allowed)
        sample = chosen[: max(count, LEAST)]
        if limit < math.inf and (count < LEAST or calls(opening) * call > 2 * allowed):
            everything = torch.ones(len(sample), dtype=torch.bool)  # nothing is known of what stands
            tried = _Tried(opening, everything, everything)
        else:
            tried = _attacked(subject, threat, sample, batch_size)
        alone, crowd, backwards = apart(tried.method)
        look = price_of(model)
        evaluated = look * (single * alone + crowded * crowd) + single * found.backward * backwards
        overheads.append((tried.seconds - evaluated * len(sample)) / calls(tried.method))
        if not prospects:
            correct = float(tried.right.double().mean())
        everything = torch.ones(len(sample), dtype=torch.bool)
        stands = next(mask for mask in (tried.standing, tried.right, everything) if bool(mask.any()))
        prospects[name] = Prospect(
            standing=float(tried.standing.double().mean()),
            used=tried.used,
            rows=tuple(sample[stands].tolist()),
        )
    return Pilot(
        subject=subject,
        forward=single,
        backward=found.backward,
        crowded=crowded,
        correct=correct,
        overhead=max(overheads),
        prospects=prospects,
    )


def _opening(threat: Threat, subject: Subject, *, smooth: bool = True) -> Attack:
    """The first stage of the quick budget: with one run of it, most of what breaks is broken."""
    stage = next(stage for stage in suite("quick", threat, subject.model.task) if not stage.control)
    name, params = stage.method(smooth=smooth)
    return build(name, **params)


def _affordable(subject: Subject, method: Attack, found: Price, allowed: float) -> int:
    """Examples of the sample that the time is enough for."""
    forwards, backwards = at_most(method)
    seconds = found.forward * (price_of(subject.model) * forwards + found.backward * backwards)
    return min(EXAMPLES, int(allowed / max(seconds, 1e-9)))


def _both(found: Price) -> float:
    """Seconds of a forward and a backward."""
    return found.forward * (1.0 + found.backward)


@dataclass(frozen=True, eq=False)
class _Tried:
    """What the first attack came to.

    Parameters
        right, standing     examples that are correct, and that the attack leaves so, (S,) bool each.
        seconds             that it took; 0 where it was refused.
        used                of the forwards that it may take, the share that it took.
    """

    method: Attack
    right: Tensor
    standing: Tensor
    seconds: float = 0.0
    used: float = 1.0


def _attacked(subject: Subject, threat: Threat, sample: Tensor, batch_size: int | None) -> _Tried:
    """The opening on a sample, with the smooth backward pass where the model has one."""
    model, method = subject.model, _opening(threat, subject)

    def run(rows: Tensor) -> AttackResult:
        inputs, labels = subject.inputs(rows), subject.labels(rows)
        return attack(method, model, inputs, labels, threat, stop_early=False, batch_size=batch_size)

    for smooth in (True, False):
        method = _opening(threat, subject, smooth=smooth)
        try:
            run(sample[:2])  # what is made once is no part of the price
            started = time.perf_counter()
            found = run(sample)
        except TrustboundError:  # nothing can be said before the audit says why
            continue
        spent = time.perf_counter() - started
        right = (~(found.success & (found.size == 0))).cpu()
        most = len(sample) * price_of(model) * at_most(method)[0]
        return _Tried(method, right, right & ~found.success.cpu(), spent, min(1.0, found.cost.forwards / most))
    everything = torch.ones(len(sample), dtype=torch.bool)
    return _Tried(method, everything, everything)
