"""A search without gradients for every set, where none of the catalogue serves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from trustbound.attacks.searching.problem import Problem, State
from trustbound.threat import Access


@dataclass(kw_only=True, eq=False)
class _Walk(State):
    """The point kept so far, how far it is from the goal (B,), and the count of steps made."""

    margin: Tensor
    made: int = 0


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    """Mix the best point with fresh random points of the set, keep what lowers the margin: serves every norm.

    The black box of sets that `square` does not serve. In each step a random share of the coordinates, large at first,
    is taken from a random point; the mixture is projected and kept where it comes nearer to the goal.
    """

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.SCORES
    restarts: ClassVar[int] = 1

    steps: int = 500

    def init(self, problem: Problem) -> _Walk:
        """A random point."""
        theta = problem.neighbourhood.start(problem.random, 0)
        far = torch.full_like(problem.search_rows, torch.inf, dtype=theta.dtype)
        return _Walk(theta=theta, done=torch.zeros_like(problem.search_rows, dtype=torch.bool), margin=far)

    def step(self, problem: Problem, state: _Walk) -> _Walk:
        """One question."""
        ours = problem.neighbourhood
        trial = state.theta
        if state.made:
            share = 0.5 * (1.0 - state.made / self.steps) ** 2 + 2.0 / trial[0].numel()
            lot = problem.random.uniform(tuple(trial.shape[1:]), restart=state.made, draw=7, dtype=torch.float64)
            trial = ours.project(torch.where(lot < share, ours.start(problem.random, state.made), trial))
        margin = problem.objective.margin(problem.outputs(trial)).to(state.margin.dtype)
        better = margin < state.margin
        state.theta = torch.where(better.reshape(-1, *(1,) * (trial.dim() - 1)), trial, state.theta)
        state.margin = torch.where(better, margin, state.margin)
        state.made += 1
        return state
