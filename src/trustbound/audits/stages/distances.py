"""The smallest change found for each example of the curve: one search for it, then runs of fixed size below it.

A search for the smallest change settles in one valley; a run of fixed size may find another. So each example is also
attacked at sizes that the curve draws: at the one just below the smallest at which it is broken, further down for as
long as that succeeds, and where it fails between the two. That is one failing run for most examples, and none for
those that are proven just below their distance.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trustbound.audits.planning.schedule import SecurityCurve
from trustbound.audits.stages.clean import logit_scale
from trustbound.audits.stages.context import Context
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.audits.work_units.attack import REFUSED
from trustbound.record.cost import Cost
from trustbound.threat import Threat


@dataclass(eq=False)
class Distances:
    """What breaks each example of the curve, and how little of it.

    Parameters
        step        whose attacks are run.
        epsilons    what the curve draws, rising from 0.
        cap         the largest change that is searched for.
        smooth      whether the runs of fixed size smooth the backward pass.

    Every success below the threat's own epsilon is a verdict of the audit.
    """

    context: Context
    threat: Threat
    verdicts: Verdicts
    step: SecurityCurve
    epsilons: Sequence[float]
    cap: float
    smooth: bool
    size: dict[int, float] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)

    def search(self, positions: Tensor, radius: Mapping[int, float]) -> None:
        """Fill `size` for examples at places; sizes within an example's proven radius are not tried."""
        for position in positions.tolist():
            if self.verdicts.broken_by[position]:
                self._note(position, float(self.verdicts.size[position]))
        caps = torch.full((len(self.context.data),), self.cap, dtype=torch.float64)
        if self.step.seeker:
            self._attack(*self.step.seeker, "curve-attack", positions, caps)
        self._place(positions, radius)

    def cost(self) -> Cost:
        """All attacks of the curve together."""
        return sum((self.context.store.cost(step) for step in self.steps), Cost())

    def _place(self, positions: Tensor, radius: Mapping[int, float]) -> None:
        """Runs at sizes of the curve, all examples at once, each at its own."""
        floor = {position: self._proven(position, radius) for position in positions.tolist()}
        stride = dict.fromkeys(floor, 1)
        method, params = self.step.placed(smooth=self.smooth)
        for number in range(1, 2 * len(self.epsilons)):
            above = {position: self._broken_from(position) for position in floor}
            going = [position for position in floor if above[position] - floor[position] > 1]
            share, part = 1.0 / 3, f"-{number}"
            if not going or not self.context.allowance.affords(f"{self.threat}/curve-runs", share=share, part=part):
                return
            aims = {
                position: max(floor[position] + 1, above[position] - stride[position])
                if stride[position]
                else (floor[position] + above[position]) // 2
                for position in going
            }
            sizes = torch.zeros(len(self.context.data), dtype=torch.float64)
            for position, aim in aims.items():
                sizes[position] = self.epsilons[aim]
            broken = self._attack(method, params, f"curve-attack-{number}", torch.tensor(going), sizes)
            for position, aim in aims.items():
                if position in broken:
                    stride[position] *= 2
                else:  # found nothing here: look between, and never below
                    floor[position], stride[position] = aim, 0

    def _proven(self, position: int, radius: Mapping[int, float]) -> int:
        """The largest point of the curve at which nothing can be found; 0 where nothing is proven."""
        known = radius.get(position, 0.0)
        known = max(known, math.nextafter(self.threat.perturbations.grain, 0.0))  # less than one coordinate is none
        return max(sum(at <= known for at in self.epsilons) - 1, 0)

    def _broken_from(self, position: int) -> int:
        """The smallest point of the curve at which the example is broken; their number where it is at none."""
        return bisect_left(self.epsilons, self.size.get(position, math.inf) - self._tolerance)

    @property
    def _tolerance(self) -> float:
        return self.threat.perturbations.tolerance(self.context.model.box, math.prod(self.context.data.shape))

    def _attack(self, method: str, params: Mapping[str, Any], name: str, positions: Tensor, sizes: Tensor) -> set[int]:
        """One attack on examples at places, each within its own of the sizes (N,); who fell to it."""
        step = f"{self.threat}/{name}"
        rows = self.context.run(
            step,
            "attack",
            positions,
            method=method,
            params=params,
            threat=self.threat,
            sizes=sizes,
            logit_scale=logit_scale(self.context),
        )
        self.steps.append(step)
        told = f"{step}: {REFUSED}"
        self.refusals |= {event.removeprefix(told) for event in self.context.store.events() if event.startswith(told)}
        found = [row for row in rows if row.found and row.size is not None]
        for row in found:
            self._note(row.position, row.size or 0.0)
        reach = self.threat.perturbations.epsilon + self._tolerance
        self.verdicts.attacked(step, [row for row in found if (row.size or 0.0) <= reach])
        return {row.position for row in found}

    def _note(self, position: int, size: float) -> None:
        self.size[position] = min(self.size.get(position, math.inf), size)
