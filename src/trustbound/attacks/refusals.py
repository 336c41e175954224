"""What an attack refuses before the first model call: requests, parameters and options that it cannot serve."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trustbound.attacks.registry import ATTACKS, AttackRow
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.losses import loss
from trustbound.metrics.registry import LOSSES
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.task import Task
from trustbound.threat import Access, Threat
from trustbound.threat.binding import check_task

if TYPE_CHECKING:
    from trustbound.attacks.searching.loop import Attack
    from trustbound.model.wrapping import Model


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number that is large enough.

    Raises      InputError for anything else, booleans included.

    >>> whole("steps", 40)
    40
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise InputError(f"`{name}` must be a whole number, at least {least}; got {value!r}")
    return number


def check_seeks(seeks: str) -> None:
    """Refuse what nobody can seek.

    Raises      InputError.

    >>> check_seeks("any")
    """
    if seeks not in ("smallest", "any"):
        raise InputError(f"`seeks` must be 'smallest' or 'any'; got {seeks!r}")


def check_goal(threat: Threat) -> None:
    """Refuse a goal that an adversary with this access cannot tell from any other.

    Raises      UnsupportedError.

    >>> check_goal(Threat.parse("l2:1;goal=target:3;access=decisions"))
    """
    if threat.access is Access.DECISIONS and not getattr(threat.goal, "decided", False):
        raise UnsupportedError(
            f"decisions do not show whether {threat.goal} is reached; the threat gives nothing else. Give "
            "access=scores, or choose another goal."
        )


def check_shown(model: Model, threat: Threat) -> None:
    """Refuse an adversary who sees more of the model than it shows."""
    if threat.access > Access[model.shows.upper()]:
        wanted = replace(threat, access=Access[model.shows.upper()])
        raise UnsupportedError(
            f"{model.name} shows {model.shows} at most; the threat {threat} gives {threat.access.name.lower()}. "
            f"Write {wanted}."
        )


def check_request(row: AttackRow, threat: Threat, task: Task = CLASSIFICATION) -> None:
    """Refuse what an attack cannot serve."""
    check_goal(threat)
    check_task(threat.goal, task, decisions=threat.access is Access.DECISIONS)
    if row.linear and not task.smooth:
        raise UnsupportedError(
            f"{row.name} takes the margin for a linear function of the inputs; that of {task.name} is counted and has "
            "no slope of its own. `trustbound list attacks` shows which attacks need none: pgd, apgd, square …"
        )
    if threat.access < Access[row.needs.upper()]:
        raise UnsupportedError(
            f"{row.name} needs access to {row.needs}; the threat gives {threat.access.name.lower()}. "
            "`trustbound list attacks` shows what needs less."
        )
    if not row.serves(threat.perturbations):
        raise UnsupportedError(
            f"{row.name} serves {row.served}; the threat is {threat.perturbations.name}"
            f"{' with radii that differ by column' if threat.perturbations.per_column else ''}. "
            "`trustbound list attacks` shows which attacks serve it."
        )
    if row.goals and threat.goal.name not in row.goals:
        raise UnsupportedError(f"{row.name} serves the goal {', '.join(row.goals)}; the threat's is {threat.goal}.")


def check_attack(method: Attack, threat: Threat, task: Task = CLASSIFICATION) -> None:
    """The same for an attack that came as an object: one of the registry serves what its row says."""
    wanted = ("fit",) if getattr(method, "shared", False) else ("init", "step")
    if not isinstance(getattr(method, "needs", None), Access) or not all(hasattr(method, name) for name in wanted):
        raise InputError(
            "an attack is a name (`trustbound list attacks`) or an object with needs, seeks, init and step; got "
            f"{method!r}"
        )
    check_goal(threat)
    check_task(threat.goal, task, decisions=threat.access is Access.DECISIONS)
    if (row := ATTACKS.row_of(method)) is not None:
        check_request(row, threat, task)
    if threat.access < method.needs:
        raise UnsupportedError(
            f"{type(method).__name__} needs access to {method.needs.name.lower()}; the threat gives "
            f"{threat.access.name.lower()}. `trustbound list attacks` shows what needs less."
        )


def check_params(method: Attack, task: Task = CLASSIFICATION) -> None:
    """Refuse parameters with which nothing would be searched: it would read as a robust model."""
    for name in ("steps", "restarts"):
        whole(name, getattr(method, name))
    own: Any = method
    for field in dataclasses.fields(own) if dataclasses.is_dataclass(own) else ():
        kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
        value = getattr(method, field.name)
        if value is None and kind.endswith("| None"):
            continue
        if kind.startswith("int"):
            whole(field.name, value, least=0)
        elif kind.startswith("float") and not (_number(value) and math.isfinite(value)):
            raise InputError(f"`{field.name}` must be a finite number; got {value!r}")
        elif kind == "bool" and not isinstance(value, bool):
            raise InputError(f"`{field.name}` must be True or False; got {value!r}")
    size = getattr(method, "step_size", None)
    if size is not None and not size > 0.0:
        raise InputError(f"`step_size` must be a positive number in input units, or None; got {size}")
    climbed = getattr(method, "loss", None)
    if isinstance(climbed, str):
        loss(climbed)
        if LOSSES.find(climbed).space == "errors" and task.name != "regression":
            raise InputError(f"{climbed} is a loss of the task regression; the model's is {task.name}. Choose another.")
    elif climbed is not None and not callable(climbed):
        raise InputError(f"`loss` must be a name or a function of logits and labels; got {climbed!r}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_options(examples: int, ids: Any, batch_size: Any, budget: Any, price: int, evaluations: int = 2) -> None:
    """Refuse options that do not fit the examples, and a budget with which nothing could be tried.

    Parameters
        price           forwards that one evaluation of an example costs.
        evaluations     that a budget must pay for at least.
    """
    if batch_size is not None:
        whole("batch_size", batch_size)
    if ids is not None and not (isinstance(ids, Tensor) and ids.shape == (examples,) and not _fractional(ids)):
        came = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise InputError(f"`ids` must be an integer tensor of shape ({examples},), one for each input; got {came}")
    if budget is not None and whole("budget", budget) < evaluations * price:
        each = "" if price == 1 else f" of {price} forwards each, as the model's adaptation asks"
        more = (
            "" if evaluations == 2 else f", {evaluations} looks in all where a perturbation is fitted and then scored"
        )
        raise InputError(
            f"`budget` must be at least {evaluations * price} forwards for each example: one look at the clean input "
            f"and one at what is returned{more}{each}; got {budget}"
        )


def _fractional(values: Tensor) -> bool:
    return values.is_floating_point() or values.is_complex()
