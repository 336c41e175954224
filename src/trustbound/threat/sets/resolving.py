"""From a threat in units, and what is said of single columns, to radii: the data are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trustbound.data.columns import Columns
from trustbound.errors import InputError
from trustbound.threat.sets.ball import NormBall
from trustbound.threat.sets.column_rules import ColumnRule, check_names, read_rules
from trustbound.threat.sets.columns import ColumnBall, UnitBall
from trustbound.threat.sets.perturbation_set import PerturbationSet

if TYPE_CHECKING:
    from trustbound.data.labelled import LabelledSet


def resolve(
    perturbations: PerturbationSet, data: LabelledSet, columns: str | Path | Mapping[str, Any] | None
) -> PerturbationSet:
    """A set whose radii are numbers: units are those of the data's columns, of all rows that were read.

    Sets in input units are left alone unless something is said of single columns.

    Raises      InputError that names the column: unknown, not whole where it is said to be, no one-hot group, without
                a radius; rules for another set than l∞, units for inputs that are no table.
    """
    rules = {} if columns is None else read_rules(columns)
    if not isinstance(perturbations, UnitBall) and not rules:
        return perturbations
    if isinstance(perturbations, ColumnBall):
        raise InputError(f"{perturbations} has been resolved already. Give what is said of its columns at once.")
    if not isinstance(perturbations, UnitBall) and not (
        isinstance(perturbations, NormBall) and perturbations.norm == "linf"
    ):
        raise InputError(
            f"what is said of single columns holds under linf; the threat is {perturbations}. Leave it out."
        )
    if len(data.shape) != 1:
        raise InputError(
            f"columns and their units belong to tables, inputs (N, F); {data.name} holds inputs of shape {data.shape}. "
            "Give a size in input units, e.g. linf:8/255."
        )
    told = data.columns or Columns.of(data.inputs.numpy())
    check_names(rules, told.names)
    _check_kinds(rules, told, data)
    amount, unit = (
        (perturbations.amount, perturbations.unit)
        if isinstance(perturbations, UnitBall)
        else (perturbations.epsilon, "")
    )
    if unit == "columns" and not any(rule.radius for rule in rules.values()):
        raise InputError(
            "linf:columns takes each column's own radius, and none is given: name a file that does (--columns), or "
            "write linf:5% or linf:0.1*std."
        )
    widths = [_width(number, name, told, rules.get(name), amount, unit) for number, name in enumerate(told.names)]
    if not any(widths):
        raise InputError(f"{perturbations} leaves no column that may change: {', '.join(told.names)}")
    return ColumnBall(
        amount,
        unit,
        told.names,
        tuple(widths),
        tuple(name in rules and rules[name].integer for name in told.names),
        tuple(dict.fromkeys(rule.one_hot for rule in rules.values() if rule.one_hot)),
    )


def _width(number: int, name: str, told: Columns, rule: ColumnRule | None, amount: float, unit: str) -> float:
    """How far a column goes for one unit of epsilon; its own radius is reached at the threat's."""
    if rule is not None and (rule.immutable or rule.one_hot):
        return 0.0
    units = {"": 1.0, "%": told.high[number] - told.low[number], "std": told.std[number], "columns": 0.0}
    units["range"] = units["%"]
    if rule is None or rule.radius is None:
        return units[unit]
    epsilon = amount / 100.0 if unit == "%" else amount
    if not 0.0 < epsilon < float("inf"):
        raise InputError(
            f"column {name!r} has a radius of its own, which a threat of size {epsilon:g} cannot scale. Write "
            "linf:columns, or a size above 0."
        )
    value, own = rule.radius
    return (value / 100.0 if own == "%" else value) * units[own] / epsilon


def _check_kinds(rules: Mapping[str, ColumnRule], told: Columns, data: LabelledSet) -> None:
    """Refuse integer columns that are not whole, and groups that are not one-hot, in these examples."""
    inputs = data.inputs
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(told.names):
        rule = rules.get(name, ColumnRule())
        if rule.one_hot:
            groups.setdefault(rule.one_hot, []).append(number)
        broken = (inputs[:, number] != inputs[:, number].round()) if rule.integer else torch.zeros(0, dtype=torch.bool)
        if bool(broken.any()):
            row = int(broken.nonzero()[0])
            raise InputError(
                f"column {name!r} is said to be integer; row {int(data.indices[row])} holds {inputs[row, number]:g}. "
                "Leave integer out, or round the column."
            )
    for group, members in groups.items():
        part = inputs[:, members]
        broken = ((part != 0) & (part != 1)).any(dim=1) | (part.sum(dim=1) != 1)
        if bool(broken.any()):
            row = int(broken.nonzero()[0])
            names = ", ".join(told.names[number] for number in members)
            raise InputError(
                f"the columns {names} are said to be the one-hot group {group!r}, one of them 1 and the others 0; row "
                f"{int(data.indices[row])} holds {part[row].tolist()}. Name the whole group, in the file's own values."
            )
