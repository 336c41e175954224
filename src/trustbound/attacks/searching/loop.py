"""The loop that every per-example attack runs in.

It owns restarts, the active set, best-so-far and the final check; an attack file holds only what its paper
says. All examples of a search advance in lockstep and those that are finished are dropped, so that model
calls stay full.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.searching.problem import BestSoFar, Problem, State
from trustbound.metrics.decision import answered, decide
from trustbound.record.cost import Cost
from trustbound.threat import Access, Neighbourhood, Objective, Random


class Attack(Protocol):
    """One attack: its parameters, `init` and `step`; optionally `prepare(problem) → Batched`, kept as memory.

    seeks               "any" stops an example at its first success, "smallest" goes on to shrink it.
    needs               the least access it works with.
    steps, restarts     per restart; independent starts.
    initial_forwards    (optional) forwards that `prepare` and the starts ask for an example, 0 by default, and
    forwards_per_step   (optional) forwards that a step asks for, 1 by default: what a plan is priced with.
    drawn_per_step      (optional) how many of them it asks for at once, 0 by default.
    infeasible_norms    (optional) the norms under which points outside the set are evaluated; they count for nothing.
    """

    seeks: ClassVar[str]
    needs: ClassVar[Access]

    @property
    def steps(self) -> int:
        """Steps per restart."""

    @property
    def restarts(self) -> int:
        """Independent starts."""

    def init(self, problem: Problem) -> Any:
        """The state before the first step of a restart."""

    def step(self, problem: Problem, state: Any) -> Any:
        """One step for all examples of the problem."""


@dataclass(frozen=True, eq=False)
class AttackResult:
    """What a search found, row by row.

    Shapes      theta (B, *P) and what it makes of the inputs, adversarial (B, *F): the success where there is one,
                else the last point tried (a search for the smallest change returns the clean input there); they
                are one where the set is additive; success (B,) bool; size (B,) float64 of the change, infinite
                where a smallest one was sought and none found; margin (B,) the smallest seen; prediction (B,) int64
                and confidence (B,) float64 of `adversarial`, measured afresh, -1 and NaN where the model gave no
                answer (NaN or infinity); of another task than classification the place of the largest score, 0 for
                the right answer, and no confidence;
                forwards, backwards, queries (B,) int64. Of an attack that is shared by all inputs also fitted (B,)
                bool, what it was fitted to, and perturbation (*F); None elsewhere.
    """

    theta: Tensor
    adversarial: Tensor
    success: Tensor
    size: Tensor
    margin: Tensor
    prediction: Tensor
    confidence: Tensor
    forwards: Tensor
    backwards: Tensor
    queries: Tensor
    cost: Cost
    events: tuple[str, ...] = ()
    fitted: Tensor | None = None
    perturbation: Tensor | None = None

    def __repr__(self) -> str:
        """Three lines: how many it reaches, at what cost, and the shapes."""
        count, reached = len(self.success), int(self.success.sum())
        share = f" ({reached / count:.1%})" if count else ""
        return (
            f"AttackResult: the goal is reached on {reached:,} of {count:,} examples{share}\n"
            f"  {self.cost.forwards:,} forwards, {self.cost.backwards:,} backwards, {self.cost.queries:,} queries, "
            f"{self.cost.seconds:.2g} s\n"
            f"  adversarial {tuple(self.adversarial.shape)} {str(self.adversarial.dtype).removeprefix('torch.')}"
        )

    def numpy(self) -> AttackResult:
        """The same with arrays in place of tensors."""
        arrays: dict[str, Any] = {
            one.name: value.cpu().numpy()
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), Tensor)
        }
        return replace(self, **arrays)


def fooling(found: AttackResult) -> dict[str, tuple[int, int]] | None:
    """How many are fooled, of how many that were answered rightly, by half; None where nothing is shared.

    What reaches the goal unperturbed was not answered rightly.
    """
    if found.fitted is None:
        return None
    right = ~(found.success & (found.size == 0))
    halves = {"examples it was fitted to": found.fitted & right, "held-out ones": ~found.fitted & right}
    return {words: (int((found.success & rows).sum()), int(rows.sum())) for words, rows in halves.items()}


Watch = Callable[[int, Problem, State], None]


def search(
    attack: Attack,
    oracle: Oracle,
    neighbourhood: Neighbourhood,
    objective: Objective,
    random: Random,
    *,
    reached: Tensor | None = None,
    logit_scale: Tensor | None = None,
    donors: Tensor | None = None,
    stop_early: bool = True,
    watch: Watch | None = None,
) -> AttackResult:
    """Run one attack on the examples of one neighbourhood.

    Parameters
        reached     (B,) bool, examples whose clean input already reaches the goal; measured when None. They
                    come back unperturbed, with size 0.
        logit_scale (B,) powers of two by which surrogates see the logits, None for 1.
        donors      (D, *F) inputs of the data from which a search without scores may start.
        stop_early  drop an example at its first success (attacks that seek any success only).
        watch       called as watch(step, problem, state) after each step.
    """
    started = time.perf_counter()
    inputs = neighbourhood.inputs
    search_rows = torch.arange(len(inputs), device=inputs.device)
    drop = stop_early and attack.seeks == "any"
    origin = neighbourhood.origin()
    best_so_far = BestSoFar(
        origin,
        seeks=attack.seeks,
        stop_early=drop,
        keep_closest=getattr(attack, "keeps_closest", False),
        infeasible=neighbourhood.norm in getattr(attack, "infeasible_norms", ()),
    )
    task = Problem(
        oracle=oracle,
        best_so_far=best_so_far,
        neighbourhood=neighbourhood,
        objective=objective,
        random=random,
        search_rows=search_rows,
        logit_scale=logit_scale,
        donors=donors,
    )
    if reached is None:
        with oracle.booking("clean"):
            reached = reached_by(oracle, objective, inputs, oracle.outputs(inputs, search_rows), search_rows)
    best_so_far.begin(reached)
    last = origin.clone()
    prepare = getattr(attack, "prepare", None)
    oracle.passes.reserve(oracle.price)  # for the last check
    ours = _kept(task, ~reached)
    if prepare is not None and len(ours):
        ours = replace(ours, memory=prepare(ours))
    for restart in range(attack.restarts):
        problem = _kept(ours, _goes_on(ours, best_so_far.found[ours.search_rows] if drop else None))
        if not len(problem):
            break
        _climb(attack, replace(problem, restart=restart), best_so_far, last, drop=drop, watch=watch)
    _note_spent(oracle, search_rows, best_so_far.found if drop else reached)
    oracle.passes.release()
    with oracle.booking("recheck"):
        return _checked(attack, task, best_so_far, last, reached, time.perf_counter() - started)


def reached_by(oracle: Oracle, objective: Objective, points: Tensor, outputs: Tensor, owner: Tensor) -> Tensor:
    """Which points (R, *F) reach the goal and are not rejected by the model's detector, (R,) bool."""
    reached = objective.reached(outputs)
    return reached & ~oracle.rejected(points, owner, reached)


def _goes_on(problem: Problem, finished: Tensor | None) -> Tensor:
    """Which examples have neither finished nor spent their budget, (B,) bool."""
    going = torch.ones_like(problem.search_rows, dtype=torch.bool) if finished is None else ~finished
    refused = problem.oracle.passes.refused(problem.search_rows)
    return going if refused is None else going & ~refused


def _note_spent(oracle: Oracle, search_rows: Tensor, found: Tensor) -> None:
    """Say how many searches ended with their budget."""
    refused = oracle.passes.refused(search_rows)
    count = 0 if refused is None else int((refused & ~found).sum())
    if count:
        said = (
            f"the budget of {oracle.passes.budget} forwards ended the search of {count} of {len(search_rows)} examples"
        )
        oracle.events.append(said)


def _climb(
    attack: Attack, problem: Problem, best_so_far: BestSoFar, last: Tensor, *, drop: bool, watch: Watch | None
) -> None:
    """One restart: all steps, dropping what is finished; `last` receives the final points."""
    oracle = problem.oracle
    state = attack.init(problem)
    if bool(state.done.all()):  # nothing to do in this restart: fewer classes than targets, say
        return
    limited = oracle.passes.budget is not None
    for step in range(attack.steps):
        before = state.theta.clone() if limited else None
        state = attack.step(problem, state)
        if watch is not None:
            watch(step, problem, state)
        finished = state.done | best_so_far.found_at(problem.search_rows) if drop else state.done
        refused = oracle.passes.refused(problem.search_rows)
        spent = refused is not None and bool(refused.any())
        if refused is not None:
            finished = finished | refused
        count = int(finished.sum())
        # Copying the survivors costs a few passes over the inputs: worth it once a sixteenth is finished.
        if count and (spent or count * 16 >= len(problem)):
            last[problem.search_rows] = state.theta.to(last.dtype)
            if refused is not None and before is not None:  # a step that was not paid for never happened
                last[problem.search_rows[refused]] = before[refused].to(last.dtype)
            kept = (~finished).nonzero()[:, 0]
            if not len(kept):
                return
            problem, state = problem.select(kept), state.select(kept)
    last[problem.search_rows] = state.theta


def _kept(problem: Problem, rows: Tensor) -> Problem:
    """The problem of the rows (B,) bool that are true; without a copy where all are."""
    return problem if bool(rows.all()) else problem.select(rows.nonzero()[:, 0])


def _checked(
    attack: Attack, task: Problem, best_so_far: BestSoFar, last: Tensor, reached: Tensor, seconds: float
) -> AttackResult:
    """One fresh forward over what will be returned: successes afresh, last points for the first time."""
    started = time.perf_counter()
    smallest = attack.seeks == "smallest"
    mask = best_so_far.found.reshape(-1, *(1,) * (last.dim() - 1))
    theta = best_so_far.best if smallest else torch.where(mask, best_so_far.best, last)
    lost_way = theta.flatten(1).isnan().any(dim=1) if math.isnan(float(theta.sum())) else None
    if lost_way is not None and bool(lost_way.any()):
        task.oracle.events.append(f"the gradient is NaN for {int(lost_way.sum())} examples: their search ended with it")
        theta = torch.where(lost_way.reshape(mask.shape), task.neighbourhood.origin(), theta)
    adversarial = task.neighbourhood.apply(theta)
    outputs = task.oracle.outputs(adversarial, task.search_rows)
    margin = task.objective.margin(outputs)
    size = task.neighbourhood.size(theta)
    reaches = (margin < 0) & task.neighbourhood.contains(theta, size)
    rejected = task.oracle.rejected(adversarial, task.search_rows, reaches)
    margin = margin.masked_fill(rejected, torch.inf)
    success = (reaches & ~rejected) | reached
    lost = int((best_so_far.found & ~success).sum())
    if lost:
        task.oracle.events.append(f"{lost} successes were not confirmed by a fresh forward")
    prediction, confidence = decide(outputs)
    if task.oracle.view is not None:
        confidence = torch.full_like(confidence, torch.nan)
    silent = int((success & ~answered(outputs)).sum())
    if silent:
        said = f"{silent} successes are inputs to which the model gives no answer: NaN or infinity"
        task.oracle.events.append(said)
    rejections, asked = task.oracle.rejections
    if asked:
        task.oracle.events.append(f"the detector rejected {rejections} of {asked} inputs that reach the goal")
    if smallest:
        size = size.masked_fill(~success, torch.inf)
    forwards, backwards = task.oracle.forwards.clone(), task.oracle.backwards.clone()
    cost = replace(task.oracle.cost, seconds=seconds + time.perf_counter() - started)
    return AttackResult(
        theta=theta,
        adversarial=adversarial,
        success=success,
        size=size,
        margin=torch.fmin(best_so_far.margin, margin.to(best_so_far.margin.dtype)),
        prediction=prediction,
        confidence=confidence,
        forwards=forwards,
        backwards=backwards,
        queries=forwards if task.oracle.access < Access.GRADIENTS else torch.zeros_like(forwards),
        cost=cost,
        events=tuple(task.oracle.events),
    )
