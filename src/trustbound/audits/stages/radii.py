"""Proven radii of the curve's examples, among the sizes that the curve draws, in few bounds each.

The bound of a margin falls with the size, as a power of it or faster. So each round asks an example at the size at
which the bounds known so far say that it ends; two rounds that stand side by side settle it. Cheap certifiers go first
and leave the dear ones the sizes above.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.audits.stages.context import Context
from trustbound.audits.stages.proving import BOUNDS, at_once, long, sampled
from trustbound.audits.stages.verdicts import Verdicts
from trustbound.certificates.registry import CERTIFIERS
from trustbound.record.cost import Cost
from trustbound.record.store import EvidenceRow
from trustbound.threat import Threat


@dataclass(eq=False)
class Radii:
    """The largest size of the curve at which each example is proven.

    Parameters
        certifiers  by name, cheapest first.
        epsilons    what the curve draws, rising from 0.
        clean       (N,) margins without a change.
        pays        of the curve's width, the share by which the radii of a sample must grow for a certifier that takes
                    long to be asked on.

    `proven` holds a size for each example of which anything is proven, `notes` what was left out.
    """

    context: Context
    threat: Threat
    verdicts: Verdicts
    certifiers: Sequence[str]
    epsilons: Sequence[float]
    clean: Tensor
    pays: float
    proven: dict[int, float] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def search(self, positions: Tensor) -> None:
        """Ask every certifier about examples at places."""
        epsilon = self.threat.perturbations.epsilon
        for position in positions.tolist():  # proofs of the bracket's search count here too
            if self.verdicts.certified_by[position]:
                self._hold(position, min(epsilon, self.epsilons[-1]))
        positions = positions[~torch.isin(positions, self._known_of_an_earlier_version(positions))]
        for name in self.certifiers:
            if self.context.allowance.affords(f"{self.threat}/curve-proof-{name}"):
                self._certify(name, positions)
            else:
                self.notes.append(f"radii by {name} were left out: there was no time for them")

    def cost(self) -> Cost:
        """All proofs of the curve together."""
        return sum((self.context.store.cost(step) for step in self.steps), Cost())

    def _certify(self, name: str, positions: Tensor) -> None:
        """One certifier: first on the largest margins, where it is dear, and no further unless it pays there."""
        sample = sampled(self.context.subject, name)
        dear = CERTIFIERS.find(name).quadratic and len(positions) > 2 * sample
        first = positions[self.clean[positions].argsort(descending=True, stable=True)][: sample if dear else None]
        before = self._sizes(first)
        self._narrow(name, first.sort().values, "")
        if not dear:
            return
        left, after = positions[~torch.isin(positions, first)], self._sizes(first)
        share = sum(max(size, 0.0) for size in after) - sum(max(size, 0.0) for size in before)
        share /= len(first) * self.epsilons[-1]
        if after == before:
            self.notes.append(f"{name} proved nothing more of {sample} examples and was not asked about the others")
        elif share < self.pays and long(self.context.subject, name, len(left)):
            self.notes.append(
                f"{name} moved the radii of {sample} examples by {share:.1%} of the curve's width and was not asked "
                "about the others, which would take long"
            )
        else:
            self._narrow(name, left, "-rest")

    def _sizes(self, positions: Tensor) -> list[float]:
        """Up to which size each of some examples is proven, -1 where nothing is."""
        return [self.proven.get(position, -1.0) for position in positions.tolist()]

    def _narrow(self, name: str, positions: Tensor, part: str) -> None:
        """Rounds, each with every example at a size of its own."""
        count = len(self.epsilons)
        points = {position: self._told(name, position) for position in positions.tolist()}
        fails = {
            position: min((math.ceil(at) for at, margin in told.items() if margin <= 0), default=count)
            for position, told in points.items()
        }
        for number in range(1, BOUNDS + 1):
            holds = {position: self._index(position) for position in points}
            aims = {
                position: next_index(told, holds[position], fails[position], number)
                for position, told in points.items()
                if fails[position] - holds[position] > 1
            }
            if not aims:
                return
            sizes = torch.zeros(len(self.context.data), dtype=torch.float64)
            for position, aim in aims.items():
                sizes[position] = self.epsilons[aim]
            for row in self._proofs(name, f"curve-proof-{name}{part}-{number}", torch.tensor(list(aims)), sizes):
                aim = aims[row.position]
                known = -math.inf if row.margin is None else row.margin
                points[row.position][aim] = abs(known) if row.found else -abs(known)
                if row.found:
                    self._hold(row.position, self.epsilons[aim])
                else:
                    fails[row.position] = min(fails[row.position], aim)

    def _proofs(self, name: str, step: str, positions: Tensor, sizes: Tensor) -> list[EvidenceRow]:
        step = f"{self.threat}/{step}"
        few = at_once(self.context, name, len(positions))
        rows = self.context.run(step, "proof", positions, method=name, threat=self.threat, sizes=sizes, examples=few)
        self.steps.append(step)
        epsilon = self.threat.perturbations.epsilon
        self.verdicts.proved(
            step,
            [
                EvidenceRow(position=row.position, found=True)
                for row in rows
                if row.found and float(sizes[row.position]) >= epsilon
            ],
        )
        return rows

    def _told(self, name: str, position: int) -> dict[float, float]:
        """Margins by place on the curve: without a change, and what this certifier said at the threat's epsilon."""
        told = {0.0: max(float(self.clean[position]), 0.0)}
        row = self.verdicts.bounds.get(name, {}).get(position)
        epsilon = self.threat.perturbations.epsilon
        if row is not None and row.margin is not None and math.isfinite(epsilon):
            told[epsilon / self.epsilons[1]] = abs(row.margin) if row.found else -abs(row.margin)
        return told

    def _index(self, position: int) -> int:
        """The last place of the curve at which an example is proven; -1 where nothing is."""
        return bisect_right(self.epsilons, self.proven.get(position, -1.0)) - 1

    def _hold(self, position: int, size: float) -> None:
        self.proven[position] = max(self.proven.get(position, size), size)

    def _known_of_an_earlier_version(self, positions: Tensor) -> Tensor:
        """Examples whose radius stands in the run already, found by bisection in one step."""
        step = f"{self.threat}/curve-proof"
        asked = set(positions.tolist())
        rows = [row for row in self.context.store.rows(step) if row.position in asked]
        for row in rows:
            if row.found and row.size is not None:
                self._hold(row.position, row.size)
        epsilon = self.threat.perturbations.epsilon
        reached = [row for row in rows if row.size is not None and row.size >= epsilon]
        self.verdicts.proved(step, [EvidenceRow(position=row.position, found=True) for row in reached])
        self.steps += [step] if rows else []
        return torch.tensor([row.position for row in rows], dtype=torch.int64)


def next_index(points: Mapping[float, float], low: int, high: int, number: int) -> int:
    """Where to ask next, strictly between the place that holds and the one that fails.

    What is lost of a margin grows as c·r^p, with c and p from the two points nearest to where nothing is left of it;
    later rounds interpolate its logarithm between the two places, which no outlier misleads.

    Parameters
        points      margins by place, 0 for the clean one; negative where not proven.
        low, high   the last place that is proven, −1 for none; the first that is known to fail.
        number      of the round.

    >>> next_index({0.0: 2.0, 16.0: -6.0}, low=0, high=16, number=1)
    8
    """
    clean = points[0.0]
    lost = [(at, clean - margin) for at, margin in points.items() if at > 0 and clean < math.inf]
    lost = (
        sorted(
            ((at, gone) for at, gone in lost if 0 < gone < math.inf), key=lambda point: abs(math.log(point[1] / clean))
        )
        if clean > 0
        else []
    )
    guess = (max(low, 0) + high) // 2
    if lost and (number <= 2 or low < 1):
        (at, gone), power = lost[0], 2.0
        if len(lost) > 1:
            (other, less) = lost[1]
            power = min(max(math.log(gone / less) / math.log(at / other), 1.0), 6.0)
        guess = math.floor(at * (clean / gone) ** (1.0 / power))
    elif low in points and high in points and math.isfinite(points[high]) and clean > 0:
        above, below = (math.log1p(3.0 * abs(points[place]) / clean) for place in (low, high))
        guess = round(low + (high - low) * above / max(above + below, 1e-300))
    return min(max(guess, low + 1), high - 1)
