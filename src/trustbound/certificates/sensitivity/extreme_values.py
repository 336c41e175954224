"""CLEVER: how far the decision may reach, estimated from the largest gradients of random points. It proves nothing."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trustbound.attacks.model_access.oracle import Oracle, default_batch_size
from trustbound.attacks.refusals import check_shown, whole
from trustbound.attacks.searching.request import Request, check_batch
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.model.wrapping import wrap
from trustbound.record.cost import Cost
from trustbound.threat.random import Random, new_key
from trustbound.threat.threat import Threat

#: Exponents of the dual norms: how fast a function can change along a unit of the norm.
_DUAL = {"linf": 1.0, "l2": 2.0, "l1": math.inf}

#: Shapes that a fit may have. Below 1 the likelihood has no largest value; far above, the location runs away.
_SHAPES = (1.0, 1e3)


@dataclass(frozen=True, kw_only=True)
class ReverseWeibull:
    """P(X ≤ x) = exp(−((location − x) / scale)^shape) below the location, where it ends.

    p_value     Kolmogorov-Smirnov test of the fit against the sample that it was fitted to: small where maxima do not
                look like that; since it was fitted to them, large values say less than they seem to.
    """

    location: float
    shape: float
    scale: float
    p_value: float


def fit_reverse_weibull(maxima: NDArray[np.float64]) -> ReverseWeibull:
    """Fit maxima (n,) by maximum likelihood, the location profiled: for each, shape and scale have one best value.

    Maxima that are all equal end there.

    >>> maxima = 2.0 - np.random.default_rng(0).weibull(3.0, 2000)
    >>> found = fit_reverse_weibull(maxima)
    >>> round(found.location, 1), found.shape > 2.5, found.p_value > 0.05
    (2.0, True, True)
    """
    from scipy.optimize import minimize_scalar
    from scipy.stats import kstest, weibull_min

    top, spread = float(maxima.max()), float(maxima.max() - maxima.min())
    if not spread > 1e-9 * abs(top):
        return ReverseWeibull(location=top, shape=math.inf, scale=0.0, p_value=1.0)
    below = (top - maxima) / spread

    def fitted(step: float) -> tuple[float, float, float]:
        """Shape, scale and likelihood where the location lies exp(step) spreads above the largest."""
        distances = below + math.exp(step)
        shape = _shape(np.log(distances))
        scale = float(np.mean(distances**shape)) ** (1.0 / shape)
        return shape, scale, float(weibull_min.logpdf(distances, shape, scale=scale).sum())

    steps = np.linspace(math.log(1e-6), math.log(10.0), 60)
    best = int(np.argmax([fitted(step)[2] for step in steps]))
    around = steps[max(best - 1, 0)], steps[min(best + 1, len(steps) - 1)]
    step = float(minimize_scalar(lambda at: -fitted(at)[2], bounds=around, method="bounded").x)
    shape, scale, _ = fitted(step)
    p_value = float(kstest(below + math.exp(step), weibull_min(shape, scale=scale).cdf).pvalue)
    location = top + math.exp(step) * spread
    return ReverseWeibull(location=location, shape=shape, scale=scale * spread, p_value=p_value)


def _shape(logs: NDArray[np.float64]) -> float:
    """The likeliest shape of a Weibull distribution that starts at 0, from the logarithms of a sample."""
    from scipy.optimize import brentq

    centred = logs - logs.max()

    def slope(shape: float) -> float:
        weights = np.exp(shape * centred)
        return float((weights * centred).sum() / weights.sum() - centred.mean() - 1.0 / shape)

    low, high = _SHAPES
    if slope(low) >= 0.0:
        return low
    return high if slope(high) <= 0.0 else float(brentq(slope, low, high))


@dataclass(frozen=True, kw_only=True, eq=False)
class CleverEstimate:
    """What was estimated of each example; no bound, and in no bracket.

    Shapes      distance (B,) float64, the estimated distance to another class, at most the radius that was looked at;
                0 for an example that is misclassified. target (B,) int64, the class that it is to; lipschitz (B,) how
                fast the difference of logits to it is estimated to change; p_value (B,) of the fit of that class.
    """

    distance: Tensor
    target: Tensor
    lipschitz: Tensor
    p_value: Tensor
    cost: Cost


def clever(
    model: nn.Module | Any,
    inputs: Tensor,
    labels: Tensor,
    threat: Threat | str,
    *,
    batches: int = 50,
    draws: int = 128,
    nearest: int | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> CleverEstimate:
    """Estimate the distance to other classes from extreme values of gradient norms (the CLEVER score).

    Bound       none: an estimate, of the distance to the decision boundary. It fails where gradients are masked: a flat
                logit looks as if it never changed, and the estimate is the whole radius (Goodfellow, Gradient Masking
                Causes CLEVER to Overestimate Adversarial Perturbation Size, 2018, arXiv:1804.07870).
    Needs       gradients.  Sets: balls of linf, l2 and l1, whose ε is the radius that is looked at.
    Update      L_j <- location of the reverse Weibull distribution fitted to the largest ‖∇(f_y − f_j)‖ in the dual
                norm of each of `batches` batches of `draws` points of the ball;
                distance <- min over j of min((f_y − f_j)(x) / L_j, ε).
    Shapes      inputs (B, *F) in the box; labels (B,) int64.
    Cost        per example and other class: batches · draws forwards and backwards. With `nearest` only so many classes
                are asked about, those of the largest logits.
    Randomness  the points, a function of (key, example, batch, draw).
    Raises      UnsupportedError for other sets and goals; InputError as an attack does.
    Reference   Weng, Zhang, Chen, Yi, Su, Gao, Hsieh and Daniel, Evaluating the Robustness of Neural Networks: An
                Extreme Value Theory Approach, 2018, arXiv:1801.10578, algorithms 1 and 2.
    Deviations  50 batches of 128 (the paper: 500 of 1,024); points lie in ball ∩ box, in l2 drawn in the ball and then
                projected; the location is profiled, with shapes of at least 1.

    >>> linear = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(linear.weight)
    >>> found = clever(linear, torch.tensor([[0.75, 0.25]]), torch.tensor([0]), "l2:0.5", batches=5, draws=4)
    >>> found.distance  # 0.5 / √2
    tensor([0.3536], dtype=torch.float64)
    """
    started = time.perf_counter()
    whole("batches", batches, least=5)
    whole("draws", draws)
    if nearest is not None:
        whole("nearest", nearest)
    asked = _request(model, inputs, labels, Threat.parse(threat), batch_size, new_key(generator))
    radius, count = asked.threat.perturbations.epsilon, len(asked)
    found = {name: torch.zeros(count, dtype=torch.float64) for name in ("distance", "lipschitz", "p_value")}
    target = torch.full((count,), -1, dtype=torch.int64)
    with asked.oracle(slice(0, count), key=asked.key) as oracle:
        place = torch.arange(count, device=asked.inputs.device)
        with oracle.booking("clean"):
            logits = oracle.outputs(asked.inputs, place).double().cpu()
        for row in range(count):
            label = int(asked.labels[row])
            others = logits[row].argsort(descending=True)
            others = others[others != label][: nearest or len(others)]
            gaps = logits[row, label] - logits[row, others]
            if not bool((gaps > 0).all()):
                target[row] = others[int(gaps.argmin())]
                continue
            fits = _fits(asked, oracle, row, others, batches, draws)
            reach = [
                min(float(gap) / fit.location, radius) if fit.location > 0 else radius
                for gap, fit in zip(gaps, fits, strict=True)
            ]
            least = int(np.argmin(reach))
            target[row] = others[least]
            found["distance"][row], found["lipschitz"][row] = reach[least], fits[least].location
            found["p_value"][row] = fits[least].p_value
        cost = replace(oracle.cost, seconds=time.perf_counter() - started)
    return CleverEstimate(target=target, cost=cost, **found)


def _request(
    model: nn.Module | Any, inputs: Tensor, labels: Tensor, threat: Threat, batch_size: int | None, key: int
) -> Request:
    """Refuse what has no estimate, and put the examples in place."""
    model = wrap(model)
    check_shown(model, threat)
    check_batch(model, inputs, labels)
    if (
        threat.perturbations.norm not in _DUAL
        or threat.perturbations.per_column
        or threat.goal.name != "misclassify"
        or not model.task.plain
    ):
        raise UnsupportedError(
            f"clever estimates distances to other classes in the norms {', '.join(_DUAL)}; got {threat} and the task "
            f"{model.task}"
        )
    threat.perturbations.check(model.box, tuple(inputs.shape[1:]))
    return Request(
        name="clever",
        method=None,
        model=model,
        inputs=placed(inputs.to(model.device, model.input_dtype), model.box),
        labels=model.task.checked_labels(labels).to(model.device),
        threat=threat,
        ids=torch.arange(len(inputs), device=model.device),
        names=torch.arange(len(inputs), device=model.device),
        key=key,
        batch_size=whole("batch_size", batch_size) if batch_size is not None else default_batch_size(model),
    )


def _fits(asked: Request, oracle: Oracle, row: int, others: Tensor, batches: int, draws: int) -> list[ReverseWeibull]:
    """The distribution of the largest gradients of one example, for each of the other classes."""
    centre = asked.inputs[row : row + 1].expand(draws, *asked.inputs.shape[1:]).contiguous()
    ball = asked.threat.perturbations.around(centre, asked.model.box)
    ids = int(asked.ids[row]) * draws + torch.arange(draws, device=centre.device)
    owner, label = torch.full_like(ids, row), int(asked.labels[row])
    order = _DUAL[asked.threat.perturbations.norm]
    maxima = np.zeros((len(others), batches))
    for batch in range(batches):
        points = ball.start(Random(asked.key, ids).stream("clever"), batch)
        for place, other in enumerate(others.tolist()):

            def gap(outputs: Tensor, rows: slice, other: int = other) -> Tensor:
                return outputs[:, label] - outputs[:, other]

            gradient = oracle.gradient(points, owner, gap).gradient.double().flatten(1)
            maxima[place, batch] = float(torch.linalg.vector_norm(gradient, order, 1).max())
    if not np.isfinite(maxima).all():
        raise InputError(f"clever needs finite gradients; the model gives others around example {row}")
    return [fit_reverse_weibull(one) for one in maxima]
