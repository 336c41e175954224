"""Every kind of perturbation by the name that opens its text form: the parser, the lists and the tests read it."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class SetRow:
    """One kind of perturbation.

    Parameters
        name        as in the text form NAME:SIZE.
        target      "module:Class": of a norm ball's neighbourhood, of a `Transformation`, or of the set itself.
        line        what it allows, in one line.
        unit        of its size.
        example     of its text form.
        combines    whether several may be joined by commas, applied in the order in which they are written.
    """

    name: str
    target: str
    line: str
    unit: str
    example: str
    combines: bool = False


SETS = Registry(
    "a set of perturbations",
    SetRow(
        name="linf",
        target="trustbound.threat.sets.linf:LinfNeighbourhood",
        line="Each input value changes by at most epsilon.",
        unit="input units",
        example="linf:8/255",
    ),
    SetRow(
        name="l2",
        target="trustbound.threat.sets.l2:L2Neighbourhood",
        line="The change has a Euclidean length of at most epsilon.",
        unit="input units",
        example="l2:0.5",
    ),
    SetRow(
        name="l1",
        target="trustbound.threat.sets.l1:L1Neighbourhood",
        line="The absolute changes sum to at most epsilon.",
        unit="input units",
        example="l1:10",
    ),
    SetRow(
        name="l0",
        target="trustbound.threat.sets.l0:L0Neighbourhood",
        line="At most epsilon input values change, each by any amount inside the box.",
        unit="input values",
        example="l0:20",
    ),
    SetRow(
        name="rotation",
        target="trustbound.threat.sets.rotation:Rotation",
        line="A picture is turned about its centre by at most so many degrees, either way.",
        unit="degrees",
        example="rotation:30",
        combines=True,
    ),
    SetRow(
        name="translation",
        target="trustbound.threat.sets.translation:Translation",
        line="A picture is shifted by at most so many pixels along each axis, either way.",
        unit="pixels",
        example="translation:3",
        combines=True,
    ),
    SetRow(
        name="brightness",
        target="trustbound.threat.sets.brightness:Brightness",
        line="One number of at most epsilon is added to all input values, which are then clipped to the box.",
        unit="input units",
        example="brightness:0.2",
        combines=True,
    ),
    SetRow(
        name="patch",
        target="trustbound.threat.sets.patch:Patch",
        line="One square of so many pixels a side, wherever it lies in the picture, is replaced by anything.",
        unit="pixels",
        example="patch:5",
    ),
)
