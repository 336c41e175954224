"""Blocked gradients: the module behind which no gradient is left on the way from the outputs to the inputs."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.audits.checks.context import Before
from trustbound.audits.checks.finding import EvaluationCheck, Finding
from trustbound.audits.checks.significance import severest
from trustbound.errors import UnsupportedError
from trustbound.metrics.losses import loss
from trustbound.record.cost import Cost
from trustbound.threat import Access


@dataclass(frozen=True, kw_only=True)
class BlockedGradient:
    """One module that blocks gradients.

    Parameters
        path, kind      module path ("" is the model itself) and type.
        share           of examples whose gradient arrives at the module's output and not at its input.
        same_shape      its output has its input's shape: the identity can stand in for it.
    """

    path: str
    kind: str
    share: float
    same_shape: bool

    def __str__(self) -> str:
        return f"{self.path or 'the model itself'} ({self.kind})"


def blocked_gradients(context: Before) -> tuple[list[BlockedGradient], float, Cost]:
    """The modules that pass no gradient, worst first; the share of dead examples; the cost.

    Method      Hooks note each module's first input and last output; one backward of the logit margin, which
                never saturates, gives the gradient at all of them. A module kills an example when the
                gradient is not zero at its output and zero, or absent, at its input. Of nested modules the
                innermost is named.
    """
    model, inputs = context.model, context.inputs.to(context.model.device)
    labels = context.right.to(inputs.device)
    names = {part: path for path, part in model.module.named_modules()}
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(part: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        entered = next((one for one in arguments if _carries(one)), None)
        left = _last_tensor(output)
        if entered is not None and left is not None and names[part] not in seen:
            seen[names[part]] = (entered, left)

    alive: dict[tuple[str, str], Tensor] = {}

    def surrogate(outputs: Tensor, rows: slice) -> Tensor:
        values = loss("margin")(outputs, labels[rows])
        alive.update(_gradients(values, seen))
        return values

    with Oracle(model, examples=len(inputs), batch_size=len(inputs), key=context.key, view=context.view) as oracle:
        handles = []
        try:
            for part in names:
                with contextlib.suppress(RuntimeError):  # compiled and scripted parts may take no hooks
                    handles.append(part.register_forward_hook(note))
            reached = _lives(oracle.gradient(inputs, torch.arange(len(inputs)), surrogate).gradient, len(inputs))
        except UnsupportedError:
            reached = torch.zeros(len(inputs), dtype=torch.bool, device=inputs.device)
        finally:
            for handle in handles:
                handle.remove()
    blocking = []
    for path, (entered, left) in seen.items():
        lost_here = ~alive.get((path, "input"), torch.zeros_like(reached))
        if left.requires_grad:  # else cut from the graph: whatever arrives at the output is lost
            lost_here &= alive.get((path, "output"), torch.zeros_like(reached))
        if share := float(lost_here.float().mean()):
            kind = type(model.module.get_submodule(path)).__name__
            same_shape = entered.shape == left.shape
            blocking.append(BlockedGradient(path=path, kind=kind, share=share, same_shape=same_shape))
    named = [
        one
        for one in blocking
        if not any(
            other.path != one.path
            and other.path.startswith(f"{one.path}." if one.path else "")
            and other.share >= 0.5 * one.share
            for other in blocking
        )
    ]
    named.sort(key=lambda one: -one.share)
    return named, 1.0 - float(reached.float().mean()), oracle.cost


def _gradients(values: Tensor, seen: dict[str, tuple[Tensor, Tensor]]) -> dict[tuple[str, str], Tensor]:
    """Which rows have a gradient at each noted tensor, while the graph is alive."""
    places = [
        ((path, side), tensor)
        for path, pair in seen.items()
        for side, tensor in zip(("input", "output"), pair, strict=True)
        if tensor.requires_grad
    ]
    if not values.requires_grad or not places:
        return {}
    gradients = torch.autograd.grad(
        values.sum(), [tensor for _, tensor in places], retain_graph=True, allow_unused=True
    )
    return {
        place: _lives(gradient, len(values))
        for (place, _), gradient in zip(places, gradients, strict=True)
        if gradient is not None
    }


def _lives(gradient: Tensor, rows: int) -> Tensor:
    """Which rows (B,) have a gradient that is not zero; all or none where rows cannot be told apart."""
    if gradient.shape[0] == rows:
        return (gradient.reshape(rows, -1) != 0).any(dim=1)
    return (gradient != 0).any().expand(rows)


def _carries(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad


def _last_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, tuple | list) and value:
        return _last_tensor(value[-1])
    return None


@dataclass(frozen=True, kw_only=True)
class BrokenGraph(EvaluationCheck[Before]):
    """Follow the gradient of the logit margin back through the modules and name the one where it dies.

    Measures    share of examples whose gradient dies in the worst module; 1 when none reaches the inputs.
    Catches     detach, no_grad, rounding, thresholds, argmax, saturated softmax.
    Cost        1 forward, 2 backwards per example.

    >>> class Rounded(nn.Module):
    ...     def forward(self, inputs):
    ...         return (inputs * 4).round() / 4
    >>> from trustbound.model.wrapping import wrap
    >>> from trustbound.threat import Threat
    >>> context = Before(
    ...     model=wrap(nn.Sequential(Rounded(), nn.Linear(3, 2))),
    ...     inputs=torch.rand(8, 3),
    ...     labels=torch.zeros(8, dtype=torch.int64),
    ...     threat=Threat.parse("linf:0.1"),
    ... )
    >>> BrokenGraph().measure(context).finding
    'the gradient dies in 0 (Rounded) for 100.0% of 8 examples'
    """

    name: ClassVar[str] = "broken-graph"
    needs: ClassVar[Access] = Access.GRADIENTS

    examples: int = 32

    def measure(self, context: Before) -> Finding:
        """Name the place."""
        sample = context.sample(self.examples)
        blocking, lost, cost = blocked_gradients(sample)
        value = max([lost, *(one.share for one in blocking)])
        at_most = severest(round(value * len(sample)), len(sample), share=0.05)
        if not blocking:
            text = (
                f"the gradient reaches the inputs of all {len(sample)} examples"
                if lost == 0
                else f"the gradient of {lost:.1%} of {len(sample)} examples is lost between modules"
            )
            return Finding(value=value, finding=text, advice=_advice(None), cost=cost, at_most=at_most)
        worst = blocking[0]
        return Finding(
            value=value,
            finding=f"the gradient dies in {worst} for {worst.share:.1%} of {len(sample)} examples",
            advice=_advice(worst),
            evidence={"modules": [str(one) for one in blocking], "shares": [one.share for one in blocking]},
            cost=cost,
            at_most=at_most,
        )


def _advice(worst: BlockedGradient | None) -> str:
    if worst is None or not worst.path:
        return (
            "put the operation that stops the gradient into a module of its own, then declare a differentiable "
            "stand-in for it (--stand-in path=identity, Adaptation(stand_ins={'path': …}), BPDA)."
        )
    stand_in = "lambda inputs: inputs" if worst.same_shape else "a smooth version of it"
    command = f"--stand-in {worst.path}=identity, in Python " if worst.same_shape else ""
    return f"declare {command}Adaptation(stand_ins={{{worst.path!r}: {stand_in}}}) (BPDA) and attack again."
