"""The audit: from a model and data to the record of how far it can be trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from trustbound.attacks.refusals import whole
from trustbound.attacks.suites import suite
from trustbound.audits.checks.restored import fingerprint
from trustbound.audits.compatibility import check_fit
from trustbound.audits.fingerprint import check_told_apart, described
from trustbound.audits.planning.pilot import Pilot
from trustbound.audits.planning.plan import TRIAL, announced
from trustbound.audits.planning.schedule import SecurityCurve, control_count, curve_count, steps
from trustbound.audits.stages.allowance import TimeLimit, clocked
from trustbound.audits.stages.bracket import Search
from trustbound.audits.stages.checking import after_search, before_search, shortened_checks, weighed
from trustbound.audits.stages.clean import STEP, Clean, backward_cost, clean_pass, logit_scale, same_answers
from trustbound.audits.stages.context import Context, Progress, Silent
from trustbound.audits.stages.curve import curve
from trustbound.audits.stages.proving import certifiers
from trustbound.audits.stages.summary import example_rows, exhibits, model_facts
from trustbound.audits.stages.uncertainty import attacked_outputs, uncertainty_report, witnesses
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.audits.versions import versions
from trustbound.audits.work_units.draws import derived_key, drawn
from trustbound.audits.work_units.execute import execute
from trustbound.audits.work_units.subject import Subject
from trustbound.data.labelled import LabelledSet
from trustbound.engines import started
from trustbound.engines.registry import ENGINES
from trustbound.errors import InputError, TrustboundError, UnsoundError
from trustbound.model.wrapping import Model, wrap
from trustbound.record.audit import (
    AuditRecord,
    Bracket,
    Check,
    Curve,
    DataFacts,
    ExampleRow,
    Exhibit,
    SharedFacts,
    StageFacts,
)
from trustbound.record.binomial import binomial_interval
from trustbound.record.disk.atomic import write_atomically
from trustbound.record.record_file import write_record
from trustbound.record.scores import UncertaintyReport
from trustbound.record.store import Store
from trustbound.tasks.task import Task, real
from trustbound.threat import Threat


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
    engine: str = "in-process",
    workers: int | None = None,
    address: str | None = None,
    unit_size: int | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
    command: str | None = None,
    tried: Pilot | None = None,
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
        engine          "in-process", or "ray": work units side by side in `workers` processes of one thread each, on
                        this machine or on the cluster at `address`. Records have the same bits at equal unit size.
        seconds         that it may take: what pays least is left out, and the record's events name it.
        tried           what a trial of this model found before, in place of another one.
        unit_size       examples of a work unit: 512, or on ray a 64th of those of a step where that is 32 or more; a
                        run that was begun keeps its own.

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
    if batch_size is not None:
        whole("batch_size", batch_size)
    if unit_size is not None:
        whole("unit_size", unit_size)
    if run is not None and not isinstance(run, str | Path):
        raise InputError(f"`run` must be a directory's path, or None; got {run!r}")
    if not isinstance(training, LabelledSet | None):
        raise InputError(f"`training` must be a LabelledSet, or None; got {type(training).__name__}")
    whole("seed", seed, least=0)
    if seconds is not None and ((number := real(seconds)) is None or not 0.0 < number < math.inf):
        raise InputError(f"`seconds` must be a number above 0, or None; got {seconds!r}")
    begun = time.perf_counter()
    asked = _asked(threats, budget, model.task, data)
    if run is not None:
        check_told_apart(model, asked)
    subject = _subject(model, data, asked, tried)
    count = curve_count(curve_examples, budget, len(data))
    key = derived_key(seed, "audit")
    with contextlib.ExitStack() as exits:
        units = exits.enter_context(
            contextlib.closing(started(engine, execute, subject, workers=workers, address=address))
        )
        classes = check_fit(model, data, asked)
        request = described(
            model, data, asked, budget=budget, seed=seed, curve=count, batch_size=batch_size, training=training
        )
        if run is None:
            store, scratch = Store.temporary(request)
            exits.callback(scratch.cleanup)
        else:
            store = Store.open(run, request)
        exits.enter_context(store)
        size, parts = _cut(store, engine, unit_size)
        context = Context(
            subject=subject,
            engine=units,
            unit_size=size,
            parts=parts,
            budget=budget,
            seed=seed,
            key=key,
            classes=classes,
            store=store,
            control=_control_group(data, key),
            batch_size=batch_size,
            progress=progress or Silent(),
        )
        left = None if seconds is None else seconds - (time.perf_counter() - begun)
        return _audit(context, count, training, command, left, tried, keep=run is not None)


def _subject(model: Model, data: LabelledSet, asked: Sequence[Threat], tried: Pilot | None) -> Subject:
    """What is audited; the list of operations that a trial has read goes along.

    Raises      InputError for a trial of another model, or of other threats.
    """
    named = {str(threat): threat for threat in asked}
    if tried is None:
        return Subject(model=model, data=data, threats=named)
    if not isinstance(tried, Pilot) or tried.subject.model is not model or not named.keys() <= tried.prospects.keys():
        raise InputError(
            "`tried` must be what `choose` found of this model, the same object, under these threats; got "
            f"{tried.subject.model.name if isinstance(tried, Pilot) else type(tried).__name__}. Leave it out."
        )
    return tried.subject.about(data, named)


def _cut(store: Store, engine: str, asked: int | None) -> tuple[int, int]:
    """Examples of a unit at most, and units of a step at least: a run goes on as it was begun, on whichever engine.

    Raises      InputError where other sizes are asked for.
    """
    begun = bool(store.done(STEP))  # by a version that wrote nothing of it down
    row = ENGINES.find("in-process" if begun else engine)
    size = int(store.fact("unit-size", lambda: row.unit_size if begun or asked is None else asked))
    parts = int(store.fact("unit-parts", lambda: 1 if begun or asked is not None else row.parts))
    if asked not in (None, size) or (asked is not None and parts > 1):
        known = f"{size} examples a unit" if parts == 1 else f"at most {size} examples a unit, in {parts} units a step"
        raise InputError(
            f"the run directory {store.run} was begun with {known}; got unit_size={asked}. Leave it out, or choose "
            "another run."
        )
    return size, parts


@dataclass(frozen=True, eq=False)
class _Answer:
    """What one threat's search came to."""

    bracket: Bracket
    steps: list[StageFacts]
    curves: list[Curve]
    uncertainty: UncertaintyReport | None
    measures: dict[str, float]
    examples: list[ExampleRow]
    gallery: list[Exhibit]
    shared: list[SharedFacts]
    checks: tuple[Check, ...]
    unsound: list[int]
    untimely: list[str]


def _audit(
    context: Context,
    curve_examples: int,
    training: LabelledSet | None,
    command: str | None,
    seconds: float | None,
    tried: Pilot | None,
    *,
    keep: bool,
) -> AuditRecord:
    started = time.perf_counter()
    model, data, store = context.model, context.data, context.store
    untouched = fingerprint(model.module)
    same_answers(context)
    clean = clean_pass(context)
    scale = logit_scale(context)
    price = float(store.fact("backward-cost", lambda: tried.backward if tried else backward_cost(context)))
    if seconds is not None or not isinstance(context.progress, Silent):
        told = store.fact("announced", lambda: _announced(context, curve_examples, tried, seconds))
        expected = {name: float(likely) for name, (likely, _) in told.items()}
        context.progress.expect(expected)
        if seconds is not None:
            needed = frozenset(name for name, (_, needed) in told.items() if needed)
            limit = TimeLimit(store, expected, needed, seconds - (time.perf_counter() - started))
            context = dataclasses.replace(context, allowance=limit)
    before = before_search(context, training)
    shortened = [shortened_checks(context, f"{threat}/checks-before") for threat in context.threats]
    pictures: dict[str, Tensor] = {}
    answers = {
        str(threat): _answer(context, threat, clean, untouched, curve_examples, pictures) for threat in context.threats
    }
    found = list(answers.values())
    untimely = tuple(
        f"{threat}: left out for time: {name}"
        for (threat, one), early in zip(answers.items(), shortened, strict=True)
        for name in (*early, *one.untimely)
    )
    brackets = tuple(answer.bracket for answer in found)
    checks = weighed((*before, *(check for answer in found for check in answer.checks)), brackets)
    unsound = [position for answer in found for position in answer.unsound]
    record = AuditRecord(
        command=command or " ".join(sys.argv),
        created=str(store.fact("created", lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))),
        versions=versions(),
        seed=context.seed,
        budget=context.budget,
        model=model_facts(model, clean, data, context.subject.double.reason, scale),
        data=DataFacts(
            name=data.name,
            sha256=data.sha256,
            n=len(data),
            class_names=tuple(data.class_names or ()),
            indices=tuple(int(index) for index in data.indices),
        ),
        clean_accuracy=float(clean.correct.double().mean()),
        clean_interval=binomial_interval(int(clean.correct.sum()), len(data)),
        brackets=brackets,
        steps=tuple(step for answer in found for step in answer.steps),
        curves=tuple(curve for answer in found for curve in answer.curves),
        doubts={threat: answer.uncertainty for threat, answer in answers.items() if answer.uncertainty is not None},
        checks=checks,
        gallery=tuple(shown for answer in found for shown in answer.gallery),
        shared=tuple(facts for answer in found for facts in answer.shared),
        examples=tuple(row for answer in found for row in answer.examples),
        cost=store.cost(),
        backward_cost=price,
        exit_code=3 if unsound or any(check.verdict == "FAIL" and check.severity == "error" for check in checks) else 0,
        events=(*dict.fromkeys(store.events()), *untimely, *clocked(seconds, time.perf_counter() - started)),
        task=str(model.task),
        measures={
            state: found
            for state, found in (
                ("clean", dict(model.task.summary(clean.outputs, data.labels))),
                *((threat, answer.measures) for threat, answer in answers.items()),
            )
            if found
        },
    )
    if keep:
        _write(store.run, record, pictures)
    if unsound:
        raise UnsoundError(
            f"{len(unsound)} certified examples were broken, at the threat's epsilon or inside a proven radius: "
            f"positions {', '.join(map(str, unsound[:10]))}. "
            "This is a defect of trustbound; please report it with the run directory."
        )
    return record


def _announced(
    context: Context, curve_examples: int, tried: Pilot | None, seconds: float | None
) -> dict[str, tuple[float, bool]]:
    """What each step is likely to take; nothing where the model cannot be tried: a display ends no audit."""
    limit = math.inf if seconds is None else TRIAL * max(seconds, 0.0)
    try:
        return announced(context.subject, tried, context.budget, curve_examples, context.batch_size, limit)
    except TrustboundError:
        return {}


def _answer(
    context: Context,
    threat: Threat,
    clean: Clean,
    untouched: dict[str, str],
    curve_examples: int,
    pictures: dict[str, Tensor],
) -> _Answer:
    """Search, curve, uncertainty and checks under one threat; what the gallery shows is added to `pictures`."""
    verdicts = Verdicts.of(clean.correct)
    provers, left_out = certifiers(context.subject, threat, context.budget)
    planned = steps(threat, context.budget, context.model.task, certifiers=provers, curve_examples=curve_examples)
    search = Search(context, threat, verdicts, [], planned, left_out)
    search.run()
    curves = [
        curve(context, threat, verdicts, step, left_out=left_out, smooth=search.smooth, clean=clean.margin)
        for step in planned
        if isinstance(step, SecurityCurve) and context.allowance.affords(f"{threat}/{step.opens}")
    ]
    curveless = any(isinstance(step, SecurityCurve) for step in planned) and not curves
    outputs = attacked_outputs(context, threat, verdicts, clean)
    found = witnesses(context, threat, verdicts)
    after = f"{threat}/checks-after"
    pictures |= {f"shared/{facts.key}": one.float().cpu().contiguous() for facts, one in search.shared}
    return _Answer(
        bracket=search.bracket(),
        steps=search.facts,
        curves=curves,
        uncertainty=uncertainty_report(context, clean, outputs),
        measures=dict(context.model.task.summary(outputs, context.data.labels)),
        examples=example_rows(context, threat, verdicts, clean, outputs),
        gallery=exhibits(context, threat, verdicts, clean, outputs, found, pictures),
        shared=[facts for facts, _ in search.shared],
        checks=after_search(context, threat, verdicts, clean, search.facts, found, untouched),
        unsound=verdicts.conflicts(),
        untimely=[*search.untimely, *(["the curve"] if curveless else []), *shortened_checks(context, after)],
    )


def _asked(
    threats: str | Threat | Sequence[Threat | str], budget: str, task: Task, data: LabelledSet
) -> tuple[Threat, ...]:
    """The threats, each served by some attack of the budget."""
    listed = [threats] if isinstance(threats, str | Threat) else threats
    if not isinstance(listed, Sequence) or not listed:
        raise InputError(f"an audit needs at least one threat, e.g. 'linf:8/255', or a list of them; got {listed!r}")
    asked = tuple(Threat.parse(threat).resolved(data) for threat in listed)
    for threat in asked:
        suite(budget, threat, task)
        if any(other != threat and str(other) == str(threat) for other in asked):
            raise InputError(
                f"an audit tells its threats apart by their text, and two goals read {str(threat)!r}. Give them names "
                "of their own, or audit one at a time."
            )
    return asked


def _control_group(data: LabelledSet, key: int) -> Tensor:
    """(N,) bool, at random."""
    count = len(data)
    mask = torch.zeros(count, dtype=torch.bool)
    mask[drawn(key, "control", data, torch.arange(count), control_count(count))] = True
    return mask


def _write(run: Path, record: AuditRecord, pictures: dict[str, Tensor]) -> None:
    if pictures:
        write_atomically(run / "gallery.safetensors", lambda path: path.write_bytes(save(pictures)))
    write_record(run, record)
