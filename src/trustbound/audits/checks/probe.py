"""Probe runs: small searches of the checks' own, and views of the model that no search has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trustbound.attacks import Attack, AttackResult, attack
from trustbound.attacks.model_access.detector import verdicts
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.searching.problem import Problem, State
from trustbound.audits.checks.context import Before
from trustbound.model.defences.adaptation import Adaptation
from trustbound.model.wrapping import Model
from trustbound.record.cost import Cost
from trustbound.threat import Objective, Threat
from trustbound.threat.binding import bind


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeRun:
    """One small search on a context's examples.

    Shapes      alive (N,) bool: the goal concerns the example and its clean input does not reach it already;
                success (N,) bool: broken by this search, alive before; last (N, *F) the final point of each
                example and last_theta (N, *P) its θ; trace (S, N) smallest margin so far after each step, infinite
                before the first evaluation.
    """

    found: AttackResult
    alive: Tensor
    success: Tensor
    last: Tensor
    last_theta: Tensor
    trace: Tensor

    @property
    def survivors(self) -> float:
        """Share of the examples alive before that are alive after; 0 where none was."""
        return float((self.alive & ~self.success).sum()) / max(int(self.alive.sum()), 1)


def probe_run(
    context: Before,
    name: str | Attack = "pgd",
    *,
    model: Model | None = None,
    threat: Threat | None = None,
    stop_early: bool = True,
    **params: Any,
) -> ProbeRun:
    """Search all examples of a context, following every example to its last point.

    `model` and `threat` replace the context's own.
    """
    inputs = context.inputs
    asked = context.threat if threat is None else threat
    around = asked.perturbations.around(inputs, context.model.box)
    theta = around.origin()
    rows: list[Tensor] = []

    def watch(step: int, problem: Problem, state: State) -> None:
        theta[problem.search_rows] = state.theta.detach().to(theta.dtype)
        rows.append(problem.best_so_far.margin.detach().clone())

    found = attack(
        name,
        context.model if model is None else model,
        inputs,
        context.labels,
        asked,
        generator=context.generator(),
        batch_size=len(inputs),
        stop_early=stop_early,
        watch=watch,
        **params,
    )
    alive = ~(found.success & (found.size == 0)) & context.concerned().to(found.success.device)
    trace = torch.stack(rows) if rows else found.margin.new_empty(0, len(inputs))
    last = around.apply(theta)
    return ProbeRun(found=found, alive=alive, success=found.success & alive, last=last, last_theta=theta, trace=trace)


def accepted(model: Model, points: Tensor) -> Tensor:
    """Which points (R, *F) the declared detector lets pass, (R,) bool: all where there is none."""
    detector = model.adaptation.detector
    if detector is None or not len(points):
        return torch.ones(len(points), dtype=torch.bool, device=points.device)
    return ~verdicts(detector, points)


class _Types(TorchDispatchMode):
    """Notes every floating type that operations give."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation as it is."""
        given = func(*args, **(kwargs or {}))
        for one in given if isinstance(given, tuple | list) else (given,):
            if isinstance(one, Tensor) and one.is_floating_point():
                self.seen.add(one.dtype)
        return given


def coarsest(model: Model, inputs: Tensor) -> float:
    """eps of the coarsest floating type that a forward of these inputs computes in; the weights' where none shows.

    >>> from trustbound.model.wrapping import wrap
    >>> half = wrap(torch.nn.Sequential(torch.nn.Linear(2, 2).bfloat16()))
    >>> coarsest(half, torch.rand(1, 2)) == torch.finfo(torch.bfloat16).eps
    True
    """
    noticed = _Types()
    with Oracle(model, examples=len(inputs)) as oracle, noticed:
        try:
            oracle.outputs(inputs.to(model.device), torch.arange(len(inputs)))
        except Exception:  # compiled code that bears no onlooker, a batch that the model refuses
            noticed.seen.clear()
    own = {tensor.dtype for tensor in model.module.parameters() if tensor.is_floating_point()}
    return max(torch.finfo(dtype).eps for dtype in noticed.seen | own | {model.dtype})


def answers(context: Before, points: Tensor, model: Model | None = None) -> tuple[Tensor, Cost]:
    """Outputs (R, C) of points, one for each example, as scores; without a trace in the model, and what they cost."""
    ours = context.model if model is None else model
    with Oracle(ours, examples=len(points), key=context.key, view=context.view) as oracle:
        outputs = oracle.outputs(points.to(ours.device), torch.arange(len(points)))
    return outputs, oracle.cost


def objective_of(context: Before, outputs: Tensor) -> Objective:
    """The threat's goal for the context's examples."""
    labels = context.labels.to(outputs.device)
    return bind(context.threat.goal, context.model.task, labels, outputs.shape[1])[0]


def correct_rows(context: Before, outputs: Tensor) -> Tensor:
    """Rows that the goal concerns and whose clean outputs (N, C) do not reach it, on the CPU."""
    goal = objective_of(context, outputs)
    return (~goal.reached(outputs) & goal.concerned()).cpu().nonzero()[:, 0]


def _parts(model: Model) -> dict[str, Any]:
    return {
        "box": model.box,
        "mean": model.mean,
        "std": model.std,
        "output": model.output,
        "adaptation": model.adaptation,
        "name": model.name,
        "task": model.task,
    }


class Rescaled(Model):
    """The same model with its logits multiplied; decisions stay, gradients of a loss may not.

    Half-precision outputs become float32 first: their own type would not hold the product.

    >>> from trustbound.model.wrapping import wrap
    >>> model = wrap(torch.nn.Linear(2, 2))
    >>> x = torch.rand(1, 2)
    >>> torch.equal(Rescaled(model, 4.0)(x), 4.0 * model(x))
    True
    """

    def __init__(self, model: Model, factor: float) -> None:
        super().__init__(model.module, **_parts(model))
        self.factor = factor

    def forward(self, inputs: Tensor) -> Tensor:
        """Scaled logits."""
        outputs = super().forward(inputs)
        wide = outputs if outputs.dtype == torch.float64 else outputs.float()
        return wide * self.factor


class Listening(Model):
    """The same model, noting each point it is asked about and each answer, behind the search's back."""

    def __init__(self, model: Model) -> None:
        super().__init__(model.module, **_parts(model))
        self.heard: list[tuple[Tensor, Tensor]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """The model's answer, noted."""
        outputs = super().forward(inputs)
        self.heard.append((inputs.detach().clone(), outputs.detach().clone()))
        return outputs


def with_identity(model: Model, paths: tuple[str, ...]) -> Model:
    """The same model, whose named modules are the identity in the backward pass (BPDA)."""
    stand_ins = {**model.adaptation.stand_ins, **dict.fromkeys(paths, _identity)}
    adaptation = Adaptation(stand_ins=stand_ins, draws=model.adaptation.draws, detector=model.adaptation.detector)
    return Model(model.module, **{**_parts(model), "adaptation": adaptation})


def _identity(inputs: Tensor) -> Tensor:
    return inputs
