"""What was reported, measured again: inside, saveable, and not also proven."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.audits.checks.context import After
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle, unmeasured
from trustbound.audits.checks.lattice import levels_of
from trustbound.audits.checks.probe import answers, objective_of
from trustbound.threat import Access, PerturbationSet


def widths_of(perturbations: PerturbationSet) -> Tensor | None:
    """The units (F,) in which each column's changes are measured; None where it is one for all."""
    widths = getattr(perturbations, "widths", None)
    return None if widths is None else torch.tensor(widths, dtype=torch.float64)


def sizes(adversarial: Tensor, inputs: Tensor, norm: str, widths: Tensor | None = None) -> Tensor:
    """Norms of the changes (B,) in float64, by formulas of their own: the sets' code is not asked.

    With `widths` (F,) each change counts in units of its own; of a column that may not change, as infinite.

    >>> sizes(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.0, 0.25]]), "l1")
    tensor([0.7500], dtype=torch.float64)
    """
    change = (adversarial.double() - inputs.double()).flatten(1)
    if widths is not None:
        change = torch.where(change == 0, 0.0, change / widths.to(change.device))
    order = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}[norm]
    size: Tensor = torch.linalg.vector_norm(change, ord=order, dim=1)
    return size


@dataclass(frozen=True, kw_only=True)
class SetAndBox(EvaluationCheck[After]):
    """Measure each reported adversarial afresh, in float64, against epsilon + τ and the box.

    Cost        no model call.

    >>> SetAndBox.name
    'set-and-box'
    """

    name: ClassVar[str] = "set-and-box"
    balls: ClassVar[bool] = True

    def measure(self, context: After) -> Finding:
        """Count those outside."""
        known = context.evidence
        if known.broken is None or known.adversarial is None:
            return unmeasured("what the search broke was not handed over")
        rows = known.broken.nonzero()[:, 0].to(context.inputs.device)
        points, inputs = known.adversarial[rows], context.inputs[rows]
        perturbations, box = context.threat.perturbations, context.model.box
        limit = perturbations.epsilon + perturbations.tolerance(box, context.inputs[0].numel())
        size = sizes(points, inputs, perturbations.norm, widths_of(perturbations))
        low = torch.as_tensor(box.low, dtype=torch.float64).to(points.dtype)
        high = torch.as_tensor(box.high, dtype=torch.float64).to(points.dtype)
        outside_box = ((points < low.to(points.device)) | (points > high.to(points.device))).flatten(1).any(dim=1)
        outside_set = ~(size <= limit)  # NaN is outside
        outside = outside_box | outside_set
        largest = float(size.max()) if len(size) else 0.0
        return Finding(
            value=float(outside.sum()),
            finding=f"of {len(rows)} adversarials {int(outside_set.sum())} exceed {perturbations} (largest "
            f"{largest:.6g}, allowed {limit:.6g}), {int(outside_box.sum())} leave the box",
            advice="do not count these as broken, and report the attack that returned them.",
            evidence={"rows": rows[outside].tolist(), "largest": largest},
        )


@dataclass(frozen=True, kw_only=True)
class EightBitRounding(EvaluationCheck[After]):
    """Round the reported adversarials to the 256 levels of a picture file, inward, and ask the model again.

    Rounding    each value to its nearest level; where that would leave the set, towards the clean value.
    Skips       data that is not itself on the 8-bit lattice: rounding would move the clean input too.
    Cost        1 forward per reported adversarial.

    >>> EightBitRounding.name
    'eight-bit-rounding'
    """

    name: ClassVar[str] = "eight-bit-rounding"
    needs: ClassVar[Access] = Access.DECISIONS

    def measure(self, context: After) -> Finding:
        """Round and ask."""
        known = context.evidence
        if known.broken is None or known.adversarial is None or not bool(known.broken.any()):
            return idle("no adversarial was reported")
        if levels_of(context.inputs, context.model.box) != 255:
            return idle("the clean inputs are no 8-bit pictures")
        rows = known.broken.nonzero()[:, 0].cpu()
        chosen = context.select(rows)
        assert chosen.evidence.adversarial is not None  # checked above
        rounded = rounded_inward(chosen, chosen.evidence.adversarial)
        outputs, cost = answers(chosen, rounded)
        kept = objective_of(chosen, outputs).reached(outputs)
        lost = int((~kept).sum())
        return Finding(
            value=lost / len(rows),
            finding=f"{len(rows) - lost} of {len(rows)} adversarials survive being saved as 8-bit pictures",
            advice="when pictures are what you need, search on past the first success or round during the "
            "search; the bound on robust accuracy stands.",
            evidence={"lost": rows[(~kept).cpu()].tolist()},
            cost=cost,
        )


def rounded_inward(context: After, adversarial: Tensor) -> Tensor:
    """The adversarials on the lattice k / 255 of the box, inside the set whenever the clean inputs are on it."""
    box, perturbations = context.model.box, context.threat.perturbations
    low, high = (
        torch.as_tensor(limit, dtype=torch.float64, device=adversarial.device) for limit in (box.low, box.high)
    )
    side = high - low
    level = (adversarial.double() - low) / side * 255.0
    clean = ((context.inputs.double() - low) / side * 255.0).round()
    near, inward = level.round(), clean + (level - clean).trunc()
    if math.isfinite(perturbations.alone):
        room = torch.floor(torch.as_tensor(perturbations.alone, dtype=torch.float64) / side * 255.0 + 1e-6)
        near = torch.minimum(torch.maximum(near, clean - room), clean + room)
    nearest, towards = ((low + one.clamp(0, 255) / 255.0 * side).to(adversarial.dtype) for one in (near, inward))
    if not perturbations.norm:  # no set of pixels' own changes, which rounding could leave
        return nearest
    inside = perturbations.around(context.inputs, box).contains(nearest)
    return torch.where(inside.reshape(-1, *(1,) * (adversarial.dim() - 1)), nearest, towards)


@dataclass(frozen=True, kw_only=True)
class DisjointVerdicts(EvaluationCheck[After]):
    """Is the set of certified examples free of broken ones, and every proven radius of smaller changes that break?

    Cost        no model call.

    >>> DisjointVerdicts.name
    'disjoint-verdicts'
    """

    name: ClassVar[str] = "disjoint-verdicts"
    needs: ClassVar[Access] = Access.DECISIONS

    def measure(self, context: After) -> Finding:
        """Count the overlap."""
        known = context.evidence
        if known.broken is None or known.certified is None:
            return unmeasured("the verdicts of attack and proof were not both handed over")
        both = known.broken.cpu() & known.certified.cpu()
        if known.contradicted is not None:
            both = both | known.contradicted.cpu()
        return Finding(
            value=float(both.sum()),
            finding=f"{int(known.certified.sum())} proven, {int(known.broken.sum())} broken, {int(both.sum())} both",
            advice="one of the two is wrong, most likely the certifier's model of this network: trust neither "
            "bound, and report the rows.",
            evidence={"rows": both.nonzero()[:, 0].tolist()},
        )
