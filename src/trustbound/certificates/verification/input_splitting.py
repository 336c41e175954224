"""Prove a property by halving its box, where the box has few sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.region import Region
from trustbound.certificates.specification import LowerBound

#: Boxes that are bounded at once, at most; and boxes that are kept.
AT_ONCE, HELD = 512, 1 << 20


@dataclass(kw_only=True, eq=False)
class InputSplitting:
    """Branch and bound over the sides of a box: bound all open parts, close those that are safe, halve the others.

    A part is safe where of every group of rows one is proven above 0 on all of it. The side that is halved is the one
    whose width times the gradient of the best row is largest. Parts with the smallest bounds come first.

    Parameters
        graph       inputs (B, *F) to rows (B, K).
        groups      (K,), ascending from 0: of a group one row above 0 is enough.
        replay      is told points (P, N) that may break a group, and says whether one does.
        expired     whether there is no time left.
        nodes       parts that were bounded.

    Reference   Wang et al., Formal Security Analysis of Neural Networks using Symbolic Intervals, 2018,
                arXiv:1804.10829, section 5 (iterative interval refinement); bounds are CROWN's.
    """

    graph: Graph
    groups: Tensor
    replay: Callable[[Tensor], bool]
    expired: Callable[[], bool]
    memory: int = 2**27
    nodes: int = field(default=0, init=False)

    def run(self, low: Tensor, high: Tensor) -> bool:
        """Say whether all of a box (N,) is safe; False also where a point was found, or time or room ran out."""
        lows, highs = low.unsqueeze(0), high.unsqueeze(0)
        known = low.new_full((1,), -math.inf)
        at_once = max(1, min(AT_ONCE, self.memory // (64 * sum(step.features for step in self.graph.operations))))
        while len(lows):
            if self.expired() or len(lows) > HELD:
                return False
            order = known.argsort()
            now, later = order[:at_once], order[at_once:]
            self.nodes += len(now)
            open_, best, worst = self._bounded(lows[now], highs[now])
            kept_low, kept_high = lows[now][open_], highs[now][open_]
            lows, highs, known = lows[later], highs[later], known[later]
            if not len(kept_low):
                continue
            gradient = self._gradient(kept_low, kept_high, best[open_])
            if self._broken(kept_low, kept_high, gradient):
                return False
            halves = _halved(kept_low, kept_high, gradient)
            if halves is None:
                return False
            lows, highs = torch.cat([lows, halves[0]]), torch.cat([highs, halves[1]])
            known = torch.cat([known, worst[open_], worst[open_]])
        return True

    def _bounded(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Which parts stay open, (P,) bool; and of each the best row of its worst group, and its bound, (P,)."""
        shape = (-1, *self.graph.shape)
        region = Region.between(low.reshape(shape), high.reshape(shape))
        rows = torch.eye(self.graph.classes, dtype=torch.float64, device=low.device).expand(len(low), -1, -1)
        bound = Crown(memory=self.memory).bounds(self.graph, region, rows)
        safe = LowerBound(value=bound.value, run=bound.run).proven
        count = int(self.groups.max()) + 1
        closed = torch.zeros(len(low), count, dtype=torch.int8, device=low.device)
        closed.scatter_reduce_(1, self.groups.expand_as(safe), safe.to(torch.int8), "amax")
        run = bound.run.nan_to_num(-math.inf, math.inf, -math.inf)
        level = run.new_full((len(low), count), -math.inf)
        level.scatter_reduce_(1, self.groups.expand_as(run), run, "amax")
        level = level.masked_fill(closed.bool(), math.inf)
        worst, group = level.min(1)
        own = self.groups.unsqueeze(0) == group.unsqueeze(1)
        return ~closed.bool().all(1), run.masked_fill(~own, -math.inf).argmax(1), worst

    def _gradient(self, low: Tensor, high: Tensor, row: Tensor) -> Tensor:
        """How a row (P,) changes with the inputs in the middle of each part, (P, N)."""
        single = self.graph.single()
        with torch.enable_grad():
            middle = ((low + high) / 2).float().requires_grad_(True)
            values = single(middle.reshape(-1, *self.graph.shape)).gather(1, row.unsqueeze(1))
            (gradient,) = torch.autograd.grad(values.sum(), middle)
        return gradient.double().nan_to_num(0.0)

    def _broken(self, low: Tensor, high: Tensor, gradient: Tensor) -> bool:
        """Try the middle of each part, and the corner to which its row falls."""
        middle = (low + high) / 2
        corner = torch.where(gradient > 0, low, torch.where(gradient < 0, high, middle))
        points = torch.cat([middle, corner])
        values = self.graph(points.reshape(-1, *self.graph.shape))
        count = int(self.groups.max()) + 1
        level = values.new_full((len(points), count), -math.inf)
        level.scatter_reduce_(1, self.groups.expand_as(values), values, "amax")
        least = level.amin(1)
        broken = (least <= 0).nonzero()[:, 0]
        return bool(len(broken)) and self.replay(points[broken[least[broken].argsort()[:16]]])


def _halved(low: Tensor, high: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Both halves (2 P, N) of parts; None where one of them is a point already."""
    wide = high - low
    slope = gradient.abs()
    score = wide * (slope + 1e-2 * slope.amax(1, keepdim=True) + 1e-30)
    side = score.argmax(1, keepdim=True)
    ends = low.gather(1, side), high.gather(1, side)
    middle = ends[0] + (ends[1] - ends[0]) / 2
    if not bool(((middle > ends[0]) & (middle < ends[1])).all()):
        return None
    return torch.cat([low, low.scatter(1, side, middle)]), torch.cat([high.scatter(1, side, middle), high])
