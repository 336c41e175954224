"""Finite differences: is autograd's gradient the slope of the function, and does the function have one?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding, idle, unmeasured
from trustbound.audits.checks.probe import answers, coarsest
from trustbound.audits.checks.significance import severest
from trustbound.errors import UnsupportedError
from trustbound.metrics.losses import loss
from trustbound.model.defences.ablated import Ablated
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Access, Random

_Asked: TypeAlias = Callable[[Tensor], Tensor]  # points (k B, *F) → margins (k B,)

# Below these, float rounding explains a difference: steps in box widths, relative disagreement, jump size.
_STEPS = {torch.float64: (1e-3, 1e-5, 1e-7), torch.float32: (1e-2, 3e-3, 1e-3, 3e-4)}
_HALVINGS = {torch.float64: 24, torch.float32: 8}
_JUMP = {torch.float64: 1e-4, torch.float32: 2e-2}


@dataclass(frozen=True, kw_only=True)
class FiniteDifferences(EvaluationCheck[Before]):
    """Compare autograd's directional derivative with central differences, and look for jumps.

    Measures    share of examples where, for some direction, gradient and slope differ by more than `allowed`
                at *every* step size (kinks disturb one size, a wrong gradient all), or where the outputs jump:
                an interval is halved around its largest change until a continuous function could not change
                any more. Directions: the gradient's own and a random one. Points: just beside the inputs, off
                the box's faces and off any lattice, where clamps and roundings have their corners.
    Precision   a float64 copy where one can be made, else float32 with wider steps; a model that computes in half
                precision and has no such copy is not measured: its rounding is all that would show.
    Catches     straight-through estimators, gradients cut or replaced, quantised inputs, k-winners-take-all.
    Skips       models that declare randomness (their differences are noise) or stand-ins (their gradient is a
                substitute on purpose), and those that vote over ablated pictures (counts have no slope).
                Undeclared randomness leaves the check unmeasured.
    Cost        about 100 forwards and 1 backward per example, on `examples` examples.
    Reference   Athalye, Carlini and Wagner, Obfuscated gradients give a false sense of security, 2018.

    >>> FiniteDifferences().allowed
    0.1
    """

    name: ClassVar[str] = "finite-differences"
    needs: ClassVar[Access] = Access.GRADIENTS
    slopes: ClassVar[bool] = True

    examples: int = 24
    allowed: float = 0.1
    reach: float = 0.05
    pieces: int = 32

    def measure(self, context: Before) -> Finding:
        """Slopes first, jumps second."""
        if context.model.adaptation.stand_ins:
            paths = ", ".join(sorted(context.model.adaptation.stand_ins))
            return idle(
                f"stand-ins are declared for {paths}: the gradient is a substitute by design; "
                "judge by transfer-success and black-box-beats-white-box"
            )
        if context.model.adaptation.draws > 1:
            return idle("the model is declared random: its differences are noise")
        if isinstance(context.model.module, Ablated):
            return idle(
                "the outputs are numbers of votes, whose gradient is that of the softmaxes by design; "
                "judge by transfer-success and black-box-beats-white-box"
            )
        sample = context.sample(self.examples)
        copied = context.model.in_float64()
        spent = Cost()
        try:
            # A copy may compute in float32 all the same: without weights, or by a cast of its own.
            if copied is not None:
                outputs, spent = answers(sample, sample.inputs.double(), copied)
                if outputs.dtype == torch.float64:
                    return _adding(self._measured(sample, copied, torch.float64), spent)
        except Exception:  # a part that refuses float64
            pass
        spent += Cost(forwards=context.model.adaptation.draws * len(sample.inputs[:2]))
        if coarsest(context.model, sample.inputs[:2]) > torch.finfo(torch.float32).eps:
            return unmeasured(
                "the model computes in half precision and has no float64 copy: rounding hides its slope", spent
            )
        return _adding(self._measured(sample, context.model, torch.float32), spent)

    def _measured(self, context: Before, model: Model, dtype: torch.dtype) -> Finding:
        inputs = context.inputs.to(model.device, dtype)
        labels = context.right.to(inputs.device)
        low, high = (
            torch.as_tensor(limit, dtype=dtype, device=inputs.device) for limit in (model.box.low, model.box.high)
        )
        side = high - low
        random = Random(context.key, torch.arange(len(inputs), device=inputs.device))
        shape = tuple(inputs.shape[1:])
        noise = random.uniform(shape, restart=0, draw=0, dtype=dtype)
        # Generic points: half a hundredth of the box off the faces, then moved by up to as much again.
        points = torch.minimum(torch.maximum(inputs, low + 0.01 * side), high - 0.01 * side)
        points = points + (noise - 0.5) * 0.01 * side
        with Oracle(model, examples=len(inputs), batch_size=4096, key=context.key, view=context.view) as oracle:
            places = torch.arange(len(inputs))

            def asked(at: Tensor) -> Tensor:
                outputs = oracle.outputs(at, places.repeat(len(at) // len(places)))
                return loss("margin")(outputs, labels.repeat(len(at) // len(labels)))

            size = float(oracle.outputs(points, places).abs().max())
            floor = 64 * torch.finfo(dtype).eps * max(size, 1e-30)
            again = [asked(points), asked(points)]
            if not bool(((again[0] - again[1]).abs() <= floor).all()):
                return unmeasured(
                    "the outputs change from call to call: differences would measure noise (see determinism)",
                    oracle.cost,
                )
            try:
                gradient = oracle.gradient(
                    points, places, lambda outputs, rows: loss("margin")(outputs, labels[rows])
                ).gradient
            except UnsupportedError:
                gradient = torch.zeros_like(points)
            gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
            guess = random.normal(shape, restart=0, draw=1, dtype=dtype)
            blind = (gradient.flatten(1) == 0).all(dim=1).reshape(-1, *(1,) * len(shape))
            aims = [_unit(torch.where(blind, guess, gradient)) * side, _unit(guess) * side]
            wrong = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
            worst = torch.zeros(len(inputs), dtype=dtype, device=inputs.device)
            steepest = (gradient * aims[0]).flatten(1).sum(dim=1).abs()
            for aim in aims:
                error = self._disagreement(asked, points, gradient, aim, 0.1 * steepest, floor, dtype)
                wrong |= error > self.allowed
                worst = torch.maximum(worst, error)
            signs = torch.where(guess >= 0, 1.0, -1.0).to(dtype)
            target = torch.minimum(torch.maximum(points + self.reach * side * signs, low), high)
            jumped = self._jumps(asked, points, target, floor, dtype)
        either = wrong | jumped
        total = len(inputs)
        return Finding(
            value=float(either.float().mean()),
            finding=f"gradient and slope disagree on {int(wrong.sum())} of {total} examples (median error "
            f"{float(worst.median()):.1g}); the outputs jump beside {int(jumped.sum())} of them",
            advice="the gradient is not the slope: name the operation (broken-graph), declare a differentiable "
            "stand-in for it, and believe black-box and transfer results only."
            if int(wrong.sum())
            else "the model is discontinuous, so a gradient says little about finite steps: average gradients "
            "over a neighbourhood or declare a continuous stand-in, and trust black-box results only.",
            evidence={"disagree": int(wrong.sum()), "jump": int(jumped.sum()), "dtype": str(dtype)},
            cost=oracle.cost,
            at_most=severest(int(either.sum()), total, share=0.05),
        )

    def _disagreement(
        self,
        asked: _Asked,
        points: Tensor,
        gradient: Tensor,
        aim: Tensor,
        least: Tensor,
        floor: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Error of gradient · aim against the central difference, the smallest over step sizes, (B,).

        Relative to the larger of the two slopes, and to `least` where both are small: across the gradient the
        slope is near zero and any curvature would look like a contradiction.
        """
        told = (gradient * aim).flatten(1).sum(dim=1)
        best = torch.full_like(told, torch.inf)
        for step in _STEPS[dtype]:
            both = asked(torch.cat((points + step * aim, points - step * aim)))
            ahead, behind = both.chunk(2)
            slope = (ahead - behind) / (2 * step)
            noise = floor / step
            excess = ((told - slope).abs() - noise).clamp(min=0.0)
            scale = torch.maximum(torch.maximum(told.abs(), slope.abs()), least)
            best = torch.minimum(best, torch.where(scale > noise, excess / scale.clamp(min=1e-300), 0.0))
        return best

    def _jumps(self, asked: _Asked, points: Tensor, target: Tensor, floor: float, dtype: torch.dtype) -> Tensor:
        """Which examples (B,) have a jump on the way to `target`: a change that survives halving."""
        rows = len(points)
        column = (-1, *(1,) * (points.dim() - 1))
        shares = torch.linspace(0.0, 1.0, self.pieces + 1, dtype=dtype, device=points.device)
        values = torch.stack([asked(points + share * (target - points)) for share in shares])
        span = values.amax(dim=0) - values.amin(dim=0)
        change = (values[1:] - values[:-1]).abs()
        jumped = torch.zeros(rows, dtype=torch.bool, device=points.device)
        for rank in range(min(2, self.pieces)):
            chosen = change.topk(rank + 1, dim=0).indices[rank]
            left, right = shares[chosen], shares[chosen + 1]
            at_left = values.gather(0, chosen[None])[0]
            at_right = values.gather(0, chosen[None] + 1)[0]
            for _ in range(_HALVINGS[dtype]):
                middle = (left + right) / 2
                at_middle = asked(points + middle.reshape(column) * (target - points))
                go_left = (at_middle - at_left).abs() >= (at_right - at_middle).abs()
                left, at_left = torch.where(go_left, left, middle), torch.where(go_left, at_left, at_middle)
                right, at_right = (
                    torch.where(go_left, middle, right),
                    torch.where(go_left, at_middle, at_right),
                )
            rest = (at_right - at_left).abs()
            jumped |= (rest > _JUMP[dtype] * span) & (rest > floor)
        return jumped


def _adding(finding: Finding, spent: Cost) -> Finding:
    """The same finding with what was spent before it was measured."""
    return replace(finding, cost=finding.cost + spent)


def _unit(direction: Tensor) -> Tensor:
    tiny = 1e-300 if direction.dtype == torch.float64 else 1e-30
    size: Tensor = torch.linalg.vector_norm(direction.flatten(1), dim=1).clamp(min=tiny)
    return direction / size.reshape(-1, *(1,) * (direction.dim() - 1))
