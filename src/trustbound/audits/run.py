"""The audit: from a model and data to the record of how far it can be trusted."""

from __future__ import annotations

import datetime
import json
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from trustbound.attacks.suites import suite
from trustbound.audits.checks.restored import fingerprint
from trustbound.audits.context import Context, Progress, Silent, derived_key, drawn
from trustbound.audits.facts import versions
from trustbound.audits.fitting import check_fit
from trustbound.audits.parts.bracket import Search
from trustbound.audits.parts.clean import Clean, backward_cost, clean_pass
from trustbound.audits.parts.curve import curve, curve_count
from trustbound.audits.parts.doubting import attacked_logits, doubt, witnesses
from trustbound.audits.parts.health import after_search, before_search
from trustbound.audits.parts.ledger import Ledger
from trustbound.audits.parts.proving import prepare
from trustbound.audits.request import described
from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError, UnsoundError
from trustbound.model.wrapping import Model, wrap
from trustbound.record.atomic import write_atomically
from trustbound.record.audit import (
    AuditRecord,
    Bracket,
    Curve,
    DataFacts,
    ExampleRow,
    Exhibit,
    ModelFacts,
    StepFacts,
)
from trustbound.record.document import to_document
from trustbound.record.interval import binomial_interval
from trustbound.record.store import Store
from trustbound.threat import Threat

#: Pictures in the gallery, per threat.
EXHIBITS = 6


def audit(
    model: Model | nn.Module,
    data: LabelledSet,
    threats: Sequence[Threat | str],
    *,
    budget: str = "standard",
    run: str | Path | None = None,
    seed: int = 0,
    curve_examples: int | None = None,
    batch_size: int | None = None,
    training: LabelledSet | None = None,
    progress: Progress | None = None,
    command: str | None = None,
) -> AuditRecord:
    """Bracket a model's robust accuracy under each threat and examine the evaluation itself.

    Parameters
        model, data     what is under test, and labelled examples in its box.
        threats         threats or their text forms.
        budget          quick, standard, thorough, or autoattack.
        run             directory of the evidence; the same call goes on where a killed one stopped. None keeps
                        nothing.
        curve_examples  examples of the security curve; 100 by default (32 for quick), 0 for none.
        training        the training set, for the overlap check.

    Raises      InputError for examples that the model cannot serve and UnsupportedError for a threat that no attack
                of the budget can serve, both before the search; RecordError for a run directory that cannot be
                written or holds another audit; UnsoundError when a certified example was broken (the record is
                written first).

    >>> from trustbound.data import load_data
    >>> data = load_data("digits", limit=40)
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> record = audit(wrap(net), data, ["linf:0.05"], budget="quick", curve_examples=0)
    >>> record.brackets[0].lower <= record.brackets[0].upper
    True
    """
    model = model if isinstance(model, Model) else wrap(model)
    if not isinstance(data, LabelledSet):
        raise InputError(
            f"`data` must be a LabelledSet; got {type(data).__name__}. Make one with load_data, "
            "LabelledSet(inputs, labels) or LabelledSet.from_dataset."
        )
    asked = _asked([threats] if isinstance(threats, str | Threat) else threats, budget)
    classes = check_fit(model, data, asked)
    count = curve_count(curve_examples, budget, len(data))
    key = derived_key(seed, "audit")
    request = described(model, data, asked, budget=budget, seed=seed, curve=count, batch_size=batch_size)
    scratch: tempfile.TemporaryDirectory[str] | None = None
    if run is None:
        store, scratch = Store.temporary(request)
    else:
        store = Store.open(run, request)
    try:
        context = Context(
            model=model,
            data=data,
            threats=asked,
            budget=budget,
            seed=seed,
            key=key,
            classes=classes,
            store=store,
            control=_control_group(data, key),
            batch_size=batch_size,
            progress=progress or Silent(),
        )
        return _audit(context, count, training, command, keep=run is not None)
    finally:
        store.close()
        if scratch is not None:
            scratch.cleanup()


def _audit(
    context: Context, curve_examples: int, training: LabelledSet | None, command: str | None, *, keep: bool
) -> AuditRecord:
    started = time.perf_counter()
    model, data, store = context.model, context.data, context.store
    untouched = fingerprint(model.module)
    clean = clean_pass(context)
    price = float(store.fact("backward-cost", lambda: backward_cost(context)))
    checks = before_search(context, training)
    double = model.in_float64() if model.dtype == torch.float32 else None
    proofs = prepare(context, torch.arange(min(2, len(data))))
    brackets: list[Bracket] = []
    steps: list[StepFacts] = []
    curves: list[Curve] = []
    examples: list[ExampleRow] = []
    gallery: list[Exhibit] = []
    pictures: dict[str, Tensor] = {}
    unsound: list[int] = []
    assessment = None
    for number, threat in enumerate(context.threats):
        ledger = Ledger.of(clean.correct)
        search = Search(context, threat, proofs, double, ledger, [])
        search.run()
        drawn = curve(context, threat, proofs, double, ledger, curve_examples)
        brackets.append(search.bracket())
        steps.extend(search.facts)
        if drawn is not None:
            curves.append(drawn)
        logits = attacked_logits(context, threat, ledger, clean)
        if number == 0:
            assessment = doubt(context, clean, logits)
        found = witnesses(context, threat, ledger)
        examples.extend(_rows(context, threat, ledger, clean, logits))
        gallery.extend(_exhibits(context, threat, ledger, clean, logits, found, pictures))
        checks = (*checks, *after_search(context, threat, ledger, clean, search.facts, found, untouched))
        unsound.extend(ledger.conflicts())
    exit_code = 3 if unsound or any(check.verdict == "FAIL" and check.severity == "error" for check in checks) else 0
    cost = store.cost()
    record = AuditRecord(
        command=command or " ".join(sys.argv),
        created=str(store.fact("created", lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))),
        versions=versions(),
        seed=context.seed,
        budget=context.budget,
        model=_model_facts(model, clean, data),
        data=DataFacts(
            name=data.name,
            sha256=data.sha256,
            n=len(data),
            class_names=tuple(data.class_names or ()),
            indices=tuple(int(index) for index in data.indices),
        ),
        clean_accuracy=float(clean.correct.double().mean()),
        clean_interval=binomial_interval(int(clean.correct.sum()), len(data)),
        brackets=tuple(brackets),
        steps=tuple(steps),
        curves=tuple(curves),
        doubt=assessment,
        checks=tuple(checks),
        gallery=tuple(gallery),
        examples=tuple(examples),
        cost=cost,
        backward_cost=price,
        exit_code=exit_code,
        events=(*store.events(), f"wall clock {time.perf_counter() - started:.1f} s"),
    )
    if keep:
        _write(store.run, record, pictures)
    if unsound:
        raise UnsoundError(
            f"{len(unsound)} certified examples were broken: positions {', '.join(map(str, unsound[:10]))}. "
            "This is a defect of trustbound; please report it with the run directory."
        )
    return record


def _asked(threats: Sequence[Threat | str], budget: str) -> tuple[Threat, ...]:
    """The threats, each once, each served by some attack of the budget."""
    asked = tuple(Threat.parse(threat) for threat in threats)
    if not asked:
        raise InputError("an audit needs at least one threat, e.g. linf:8/255; got none")
    names = [str(threat) for threat in asked]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"each threat can be asked about once; got {', '.join(twice)} again. Leave the second one out."
        )
    for threat in asked:
        suite(budget, threat)
    return asked


def _control_group(data: LabelledSet, key: int) -> Tensor:
    """(N,) bool: at random, 5 % of the examples and at least 50."""
    count = len(data)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[drawn(key, "control", data, torch.arange(count), max(50, math.ceil(0.05 * count)))] = True
    return mask


def _rows(context: Context, threat: Threat, ledger: Ledger, clean: Clean, logits: Tensor) -> list[ExampleRow]:
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    rows = []
    for place in range(len(clean.correct)):
        verdict = ledger.verdict(place)
        broken = verdict == "broken"
        settled = {"broken": ledger.broken_by[place], "certified": ledger.certified_by[place]}.get(verdict, "")
        rows.append(
            ExampleRow(
                threat=str(threat),
                index=int(context.data.indices[place]),
                label=int(context.data.labels[place]),
                prediction=int(clean.prediction[place]),
                confidence=float(clean.confidence[place]),
                verdict=verdict,
                settled_by=settled.removeprefix(f"{threat}/"),
                size=float(ledger.size[place]) if broken else None,
                adversarial_prediction=int(prediction[place]) if broken else None,
                adversarial_confidence=float(confidence[place]) if broken else None,
                margin=_finite(ledger.margin[place]),
                certified_margin=_finite(ledger.proven_margin[place]),
            )
        )
    return rows


def _finite(value: Tensor) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _exhibits(
    context: Context,
    threat: Threat,
    ledger: Ledger,
    clean: Clean,
    logits: Tensor,
    found: dict[int, Tensor],
    pictures: dict[str, Tensor],
) -> list[Exhibit]:
    """The most confidently wrong adversarial examples, one of each true class first."""
    confidence, prediction = logits.softmax(dim=1).max(dim=1)
    ranked = sorted(found, key=lambda place: -float(confidence[place]))
    labels = context.data.labels
    seen: dict[int, int] = {}
    for place in ranked:
        seen.setdefault(int(labels[place]), place)
    chosen = sorted(seen.values(), key=lambda place: -float(confidence[place]))
    chosen += [place for place in ranked if place not in set(chosen)]
    exhibits = []
    for place in chosen[:EXHIBITS]:
        key = f"{len(pictures) // 2:03d}"
        pictures[f"clean/{key}"] = context.data.batch([place])[0].float().contiguous()
        pictures[f"adversarial/{key}"] = found[place].float().cpu().contiguous()
        exhibits.append(
            Exhibit(
                threat=str(threat),
                key=key,
                index=int(context.data.indices[place]),
                label=int(labels[place]),
                clean_prediction=int(clean.prediction[place]),
                clean_confidence=float(clean.confidence[place]),
                adversarial_prediction=int(prediction[place]),
                adversarial_confidence=float(confidence[place]),
                size=float(ledger.size[place]),
                broken_by=ledger.broken_by[place].removeprefix(f"{threat}/"),
            )
        )
    return exhibits


def _model_facts(model: Model, clean: Clean, data: LabelledSet) -> ModelFacts:
    origin = getattr(model, "origin", None)
    return ModelFacts(
        name=model.name,
        sha256=model.sha256,
        parameters=sum(weight.numel() for weight in model.module.parameters()),
        classes=clean.logits.shape[1],
        input_shape=tuple(data.shape),
        box=(float(torch.as_tensor(model.box.low).min()), float(torch.as_tensor(model.box.high).max())),
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        notes=tuple(f"executed {what}" for what in getattr(origin, "executed", ())),
    )


def _write(run: Path, record: AuditRecord, pictures: dict[str, Tensor]) -> None:
    if pictures:
        write_atomically(run / "gallery.safetensors", lambda path: path.write_bytes(save(pictures)))
    text = json.dumps(to_document(record), allow_nan=False)
    write_atomically(run / "record.json", lambda path: path.write_text(text, encoding="utf-8"))
