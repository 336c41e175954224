"""The data, the model and the sets that a run speaks of: data and model only where their digests are the same."""

from __future__ import annotations

import math

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import Model
from trustbound.record.audit import AuditRecord, Bracket
from trustbound.threat import PerturbationSet, Threat
from trustbound.threat.sets.columns import ColumnBall, UnitBall


def same_examples(data: LabelledSet, record: AuditRecord) -> LabelledSet:
    """The examples of the audit, in its order, out of data that holds them.

    Raises      InputError where the data is another.
    """
    if data.sha256 == record.data.sha256:
        return data
    place = {int(row): at for at, row in enumerate(data.indices)}
    if all(row in place for row in record.data.indices):
        taken = data.take([place[row] for row in record.data.indices])
        if taken.sha256 == record.data.sha256:
            return taken
    raise InputError(
        f"the audit was made on {record.data.n} examples of {record.data.name} with the digest "
        f"{record.data.sha256[:16]}…; {data.name}, {len(data)} examples, does not hold them with the same values. Give "
        "the data that was audited, read the same way."
    )


def same_model(model: Model, record: AuditRecord) -> Model:
    """The model of the audit.

    Raises      InputError where it is another.
    """
    if model.sha256 != record.model.sha256:
        raise InputError(
            f"the audit was made of {record.model.name} with the digest {record.model.sha256[:16]}…; {model.name} has "
            f"{model.sha256[:16]}…. Give the model that was audited."
        )
    return model


def perturbations_of(bracket: Bracket) -> PerturbationSet:
    """The set of a bracket; one in units of a table's columns has the radii that the record says.

    Raises      UnsupportedError where these have no end.
    """
    parsed = Threat.parse(bracket.threat.partition(";")[0]).perturbations
    if not bracket.columns:
        return parsed
    amount, unit = (parsed.amount, parsed.unit) if isinstance(parsed, UnitBall) else (parsed.epsilon, "")
    ball = ColumnBall(amount, unit, tuple(one.name for one in bracket.columns), (), ())
    radii = [math.inf if one.radius is None else one.radius for one in bracket.columns]
    if math.inf in radii or not 0.0 < ball.epsilon < math.inf:
        raise UnsupportedError(
            f"sizes under {bracket.threat} cannot be measured anew: its radii have no end. Take --csv."
        )
    return ColumnBall(
        amount,
        unit,
        ball.columns,
        tuple(radius / ball.epsilon for radius in radii),
        tuple(one.kind == "integer" for one in bracket.columns),
    )
