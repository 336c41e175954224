"""The kinds of work that a unit may ask for: torch-free rows."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True)
class KindRow:
    """One kind of work: its name, the function (unit, subject, …) → result, and one line about it."""

    name: str
    target: str
    line: str


_ROOM = "trustbound.audits.work_units."

KINDS = Registry(
    "a kind of work",
    KindRow("clean", _ROOM + "clean:clean", "what the model says without an attack"),
    KindRow("attack", _ROOM + "attack:attack", "one attack, each success measured again"),
    KindRow("fit", _ROOM + "shared:fit", "one perturbation fitted to all examples of the unit"),
    KindRow("check", _ROOM + "check:check", "one check, of the model or of what the search found"),
    KindRow("proof", _ROOM + "proof:proof", "one certifier, at the threat's epsilon or at sizes of the examples"),
)
