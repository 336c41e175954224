"""Domains of a branch and bound: parts of a region on which some ReLUs are known to be active or inactive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, Input, Linear
from trustbound.certificates.methods.backward import Coefficients, propagate_backward
from trustbound.certificates.methods.relaxations import LinearRelaxation
from trustbound.certificates.methods.relaxed_network import RelaxedNetwork
from trustbound.certificates.methods.slopes import Ascent
from trustbound.certificates.specification import LowerBound


@dataclass(frozen=True, kw_only=True, eq=False)
class Domains:
    """D domains of one example, over the N neurons that are unstable in the whole region.

    Shapes      row (D,), which row over the logits is bounded; signs (D, N) int8: 1 where the neuron's operand is known
                to be ≥ 0, −1 where it is known to be ≤ 0, 0 where the domain holds both; slopes (D, N), lower slopes
                of what is not split; multipliers (D, N) ≥ 0 of what is; value, run (D,) float64, what is proven so far.
    """

    row: Tensor
    signs: Tensor
    slopes: Tensor
    multipliers: Tensor
    value: Tensor
    run: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def select(self, rows: Tensor | slice) -> Domains:
        """Return some of the domains, or one several times."""
        return Domains(**{part.name: getattr(self, part.name)[rows] for part in fields(self)})

    @staticmethod
    def joined(parts: Sequence[Domains]) -> Domains:
        """Return the domains of several."""
        return Domains(**{part.name: torch.cat([getattr(one, part.name) for one in parts]) for part in fields(Domains)})

    def halves(self, neurons: Tensor) -> Domains:
        """Return 2 D domains: each split at its neuron (D,), the active halves first; they inherit what is proven."""
        signs, at = self.signs.repeat(2, 1), torch.arange(len(self), device=self.row.device)
        signs[at, neurons], signs[at + len(self), neurons] = 1, -1
        return replace(self.select(at.repeat(2)), signs=signs)

    def better(self, bound: LowerBound) -> Domains:
        """Return the same with the larger of what was proven and what is proven now."""
        return replace(self, value=torch.fmax(self.value, bound.value), run=torch.fmax(self.run, bound.run))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """What all domains of one example share: the relaxed network of its region, rows (K, C), unstable neurons.

    `places` says for each activation with unstable neurons its index, where these lie in its flattened values, and
    which of the N they are.
    """

    network: RelaxedNetwork
    single: RelaxedNetwork
    rows: Tensor
    places: tuple[tuple[int, Tensor, slice], ...]
    neurons: int

    @classmethod
    def over(cls, network: RelaxedNetwork, rows: Tensor) -> Tree:
        """Number the unstable neurons of a network relaxed over the region of one example."""
        places: list[tuple[int, Tensor, slice]] = []
        count = 0
        for index, line in sorted(network.relaxations.items()):
            if isinstance(line, LinearRelaxation) and isinstance(network.graph.operations[index], Activation):
                # What may be no number at all is on neither side of zero: it is not split, and nothing is proven.
                known = line.below.isfinite() & line.above.isfinite() & line.shift.isfinite()
                at = ((line.below != line.above) & known).flatten().nonzero()[:, 0]
                if len(at):
                    places.append((index, at, slice(count, count + len(at))))
                    count += len(at)
        return cls(network=network, single=network.single(), rows=rows, places=tuple(places), neurons=count)

    @property
    def pieces(self) -> bool:
        """Whether the network is linear where every ReLU's sign is known."""
        return all(isinstance(step, Activation | Input | Linear) for step in self.network.graph.operations)

    def slope(self, index: int) -> float:
        """Return an activation's slope below zero."""
        step = self.network.graph.operations[index]
        assert isinstance(step, Activation)
        return step.slope

    def whole(self, rows: Tensor) -> Domains:
        """Return the whole region once for each of the rows (D,), with the slopes of the relaxations."""
        count, device = len(rows), rows.device
        slopes = torch.zeros(count, self.neurons, device=device)
        for index, at, part in self.places:
            line = self.single.relaxations[index]
            assert isinstance(line, LinearRelaxation)
            slopes[:, part] = line.below.flatten()[at]
        nothing = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        signs = torch.zeros(count, self.neurons, dtype=torch.int8, device=device)
        multipliers = torch.zeros_like(slopes)
        return Domains(row=rows, signs=signs, slopes=slopes, multipliers=multipliers, value=nothing, run=nothing)

    def relaxed(self, network: RelaxedNetwork, signs: Tensor) -> RelaxedNetwork:
        """Return a network (this one, or its single form) on each domain: a neuron of known sign is its own line."""
        found = network.select(torch.zeros(len(signs), dtype=torch.int64, device=signs.device))
        for index, at, part in self.places:
            line, known = found.relaxations[index], signs[:, part]
            assert isinstance(line, LinearRelaxation)
            own = torch.where(known > 0, line.above.new_tensor(1.0), line.above.new_tensor(self.slope(index)))
            for held, exact in ((line.below, own), (line.above, own), (line.shift, torch.zeros_like(own))):
                flat = held.flatten(1)  # a view: `select` has made the tensor anew
                flat[:, at] = torch.where(known != 0, exact, flat[:, at])
        return found

    def choices(
        self, found: RelaxedNetwork, signs: Tensor, slopes: Tensor, multipliers: Tensor
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Return lower slopes and signed multipliers (D, 1, *F) of every activation for a way back on the domains.

        Whatever is given is made sound: slopes are cut to between the activation's own and 1, multipliers to ≥ 0, and
        the sign of a multiplier is that of the side on which the domain lies.
        """
        chosen: dict[int, Tensor] = {}
        added: dict[int, Tensor] = {}
        for index, at, part in self.places:
            line, known = found.relaxations[index], signs[:, part]
            assert isinstance(line, LinearRelaxation)
            below = line.below.flatten(1)
            kept = slopes[:, part].to(below.dtype).clamp(self.slope(index), 1.0)
            below = below.index_copy(1, at, torch.where(known == 0, kept, below[:, at]))
            held = multipliers[:, part].to(below.dtype).clamp(min=0.0)
            zeros = torch.zeros_like(line.below).flatten(1)
            shape = (len(signs), 1, *line.below.shape[1:])
            chosen[index] = below.reshape(shape)
            added[index] = zeros.index_copy(1, at, -known.to(held.dtype) * held).reshape(shape)
        return chosen, added

    def bound(self, domains: Domains) -> LowerBound:
        """Bound each domain's row in float64 at its slopes and multipliers, with all that rounding takes: (D,)."""
        found = self.relaxed(self.network, domains.signs)
        chosen, added = self.choices(found, domains.signs, domains.slopes, domains.multipliers)
        owner = torch.arange(len(domains), device=domains.row.device)
        rows = Coefficients(owner=owner, coefficients=self.rows[domains.row].unsqueeze(1))
        last = len(self.network.graph.operations) - 1
        bound = propagate_backward(found, last, rows, slopes=chosen, multipliers=added)
        return LowerBound(value=bound.value[:, 0], run=bound.run[:, 0])

    def sketch(self, domains: Domains, met: dict[int, Coefficients] | None = None) -> Tensor:
        """Return the same bound in float32, to compare domains by and not to believe: (D,)."""
        found = self.relaxed(self.single, domains.signs)
        return self._sketch(found, domains, domains.slopes, domains.multipliers, met)

    def improve(self, domains: Domains, ascent: Ascent, goal: float) -> Domains:
        """Climb each domain's bound over slopes and multipliers in float32, keeping the best iterate of each."""
        if not self.neurons:
            return domains
        found = self.relaxed(self.single, domains.signs)
        points = [domains.slopes.clone(), domains.multipliers.clone()]
        best = [point.clone() for point in points]
        most = torch.full_like(domains.value, -torch.inf)
        memory = [torch.zeros(2, *point.shape, device=point.device) for point in points]
        for step in range(1, ascent.steps + 2):
            climbing = step <= ascent.steps
            with torch.set_grad_enabled(climbing):
                slopes, multipliers = (point.requires_grad_(climbing) for point in points)
                bound = self._sketch(found, domains, slopes, multipliers)
                gradients = torch.autograd.grad(bound.sum(), [slopes, multipliers]) if climbing else ()
            points = [point.detach() for point in points]
            better = (bound.detach() > most).unsqueeze(1)
            best = [torch.where(better, point, kept) for point, kept in zip(points, best, strict=True)]
            most = torch.fmax(most, bound.detach())
            if not climbing or bool((most > goal).all()):
                break
            for point, gradient, moments, top in zip(points, gradients, memory, (1.0, torch.inf), strict=True):
                ascent.move(point, gradient, moments, step)
                point.clamp_(0.0, top)
        return replace(domains, slopes=best[0], multipliers=best[1])

    def _sketch(
        self,
        found: RelaxedNetwork,
        domains: Domains,
        slopes: Tensor,
        multipliers: Tensor,
        met: dict[int, Coefficients] | None = None,
    ) -> Tensor:
        chosen, added = self.choices(found, domains.signs, slopes, multipliers)
        owner = torch.arange(len(domains), device=domains.row.device)
        rows = Coefficients(owner=owner, coefficients=self.rows[domains.row].float().unsqueeze(1))
        last = len(self.network.graph.operations) - 1
        return propagate_backward(found, last, rows, slopes=chosen, multipliers=added, met=met).value[:, 0]
