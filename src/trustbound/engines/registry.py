"""The engines there are: torch-free rows that the command line and the audit read."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One engine: its name, where its class is, and one line about it.

    workers     whether it has workers, which may be elsewhere: how many, and at which address, can be asked for.
    extra       the extra to install for it; empty where none is needed.
    unit_size   examples of a work unit at most, unless told otherwise.
    parts       units that a step is cut in at least, where each then still holds a few dozen examples, however many
                workers there are: none waits long for the last, and what is found depends on no number of them.
    """

    name: str
    target: str
    line: str
    workers: bool
    extra: str
    unit_size: int
    parts: int


ENGINES = Registry(
    "an engine",
    EngineRow(
        name="in-process",
        target="trustbound.engines.in_process:InProcess",
        line="one unit after another, in this process",
        workers=False,
        extra="",
        unit_size=512,
        parts=1,
    ),
    EngineRow(
        name="ray",
        target="trustbound.engines.on_ray:OnRay",
        line="units side by side in workers of one thread each, on this machine or a cluster; needs the extra [ray]",
        workers=True,
        extra="ray",
        unit_size=512,
        parts=64,
    ),
)
