"""The inner maximisation of adversarial training: one run of a library attack on a training batch.

It is the attack's own `init` and `step` on the problem that every search makes, without what a search adds: no example
is dropped (batch norm must see the whole batch), the last point is the answer, successful or not, and nothing is
checked afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from trustbound.attacks.model_access.gradient_evaluation import Apply, GradientEvaluation
from trustbound.attacks.model_access.granted import Surrogate
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.model_access.smooth_relu import SmoothBackward
from trustbound.attacks.refusals import check_attack, check_params
from trustbound.attacks.searching.loop import Attack
from trustbound.attacks.searching.problem import BestSoFar, Problem, Unkept
from trustbound.attacks.searching.request import fits
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.wrapping import Model
from trustbound.threat import Misclassify, Neighbourhood, Objective, Random, Threat

#: (logits (R, C), owner (R,)) → (R,), to climb.
InnerLoss: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class InnerOracle(Oracle):
    """An oracle for a model in training: whole batches, one draw a look, no detector, on demand another loss.

    >>> from trustbound.model.wrapping import wrap
    >>> with InnerOracle(wrap(torch.nn.Linear(2, 3)), examples=4, key=0) as oracle:
    ...     outputs = oracle.outputs(torch.rand(4, 2), torch.arange(4))
    >>> oracle.cost.forwards
    4
    """

    def __init__(self, model: Model, *, examples: int, key: int, loss: InnerLoss | None = None) -> None:
        super().__init__(model, examples=examples, batch_size=examples, key=key, task="the inner maximisation")
        self.draws, self.detector = 1, None
        self._loss = loss

    def gradient(
        self,
        theta: Tensor,
        owner: Tensor,
        surrogate: Surrogate,
        apply: Apply | None = None,
        smooth: SmoothBackward | None = None,
    ) -> GradientEvaluation:
        """Gradient of the attack's surrogate, or of the loss that replaces it."""

        def climbed(outputs: Tensor, rows: slice) -> Tensor:
            logits = full(outputs)
            return surrogate(logits, rows) if self._loss is None else self._loss(logits, owner[rows])

        return super().gradient(theta, owner, climbed, apply, smooth)


def check_inner(attack: Attack, threat: Threat) -> None:
    """Refuse an attack that is no maximisation of one run, or does not serve the set.

    >>> from trustbound.attacks.gradient.pgd import PGD
    >>> check_inner(PGD(steps=7), Threat.parse("linf:0.1"))
    """
    check_attack(attack, threat)
    check_params(attack)
    if fits(attack):
        raise UnsupportedError(
            f"an inner maximisation changes each example by itself; {type(attack).__name__} fits one perturbation for "
            "all. Train with pgd, say."
        )
    if attack.seeks != "any" or attack.restarts != 1:
        raise UnsupportedError(
            "an inner maximisation is one run of an attack that climbs a loss (seeks any, 1 restart); got "
            f"{type(attack).__name__}, which seeks {attack.seeks} in {attack.restarts} restarts. Train with pgd, say."
        )


def climb(
    attack: Attack,
    oracle: Oracle,
    neighbourhood: Neighbourhood,
    labels: Tensor,
    random: Random,
    start: Tensor | None = None,
) -> Tensor:
    """The last points, (B, *F), of one run of an attack."""
    started = _Started(neighbourhood, start)
    closest = getattr(attack, "keeps_closest", False)
    problem = Problem(
        oracle=oracle,
        best_so_far=(BestSoFar if closest else Unkept)(
            neighbourhood.origin(), seeks=attack.seeks, keep_closest=closest
        ),
        neighbourhood=neighbourhood if start is None else cast(Neighbourhood, started),
        objective=Objective(Misclassify(), labels),
        random=random,
        search_rows=torch.arange(len(labels), device=labels.device),
        restart=0 if start is None else 1,  # the first start may be an attack's own choice
    )
    if (prepare := getattr(attack, "prepare", None)) is not None:
        problem = problem.with_(memory=prepare(problem))
    state = attack.init(problem)
    if start is not None and not started.asked:
        raise InputError(f"{type(attack).__name__} does not start at random and has no use for `start`; leave it out")
    for _ in range(attack.steps):
        state = attack.step(problem, state)
    return neighbourhood.apply(state.theta).detach()


class _Started:
    """A neighbourhood whose random start is a given θ; all else is its own."""

    def __init__(self, neighbourhood: Neighbourhood, theta: Tensor | None) -> None:
        self._neighbourhood, self._theta = neighbourhood, theta
        self.asked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._neighbourhood, name)

    def start(self, random: Random, restart: int) -> Tensor | None:
        """The given θ."""
        self.asked = True
        return self._theta


def full(logits: Tensor) -> Tensor:
    """Losses are computed in float32 at least, whatever precision the forward pass ran in."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
