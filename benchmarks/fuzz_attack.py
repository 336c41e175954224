"""The attack of the certificate fuzz: small networks, many points, in the network's own precision.

A certificate is wrong where the model, as it is run, does not answer the label strictly at a point inside; a margin,
where the exact network's is smaller; a margin less its slack, where that of the model as it runs is. Points are drawn
at random, at corners, down the gradient of the exact network, and around the best of these; every one is rounded to a
number that the model takes, towards the centre, so that it lies inside whenever the exact point did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.fuzz_networks import Case

STARTS, STEPS, DRAWS, ROUNDS = 3, 8, 24, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Claims:
    """What certifiers said of N examples in one norm: targets are −1 for none, the radius is ε + τ."""

    norm: str
    centres: Tensor
    labels: Tensor
    targets: Tensor
    radius: Tensor
    margin: Tensor
    slack: Tensor
    certified: Tensor
    names: list[str]


def margins(outputs: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return logit of y − best other, or − that of the target; NaN where it is unknown: (N, …, C) to (N, …)."""
    values = outputs.double()
    index = labels.reshape(-1, *[1] * (values.ndim - 1)).expand(*values.shape[:-1], 1)
    own = values.gather(-1, index).squeeze(-1)
    others = values.scatter(-1, index, -torch.inf)
    wanted = targets.clamp(min=0).reshape(-1, *[1] * (values.ndim - 1)).expand(*values.shape[:-1], 1)
    aimed = values.gather(-1, wanted).squeeze(-1)
    runner_up = torch.where((targets >= 0).reshape(-1, *[1] * (values.ndim - 2)), aimed, others.amax(-1))
    # ∞ against ∞ is a tie: the difference would be NaN, which counts as broken too.
    return own - runner_up


def inside(points: Tensor, centre: Tensor, claims: Claims, box: tuple[float, float]) -> Tensor:
    """Say which points (N, K, *F) lie inside: float64 size ≤ ε + τ, and in the box as their precision holds it."""
    low, high = (torch.tensor(limit, dtype=torch.float64).to(centre.dtype).double() for limit in box)
    away = (points.double() - centre.double().unsqueeze(1)).flatten(2)
    size = torch.linalg.vector_norm(away, {"linf": torch.inf, "l2": 2, "l1": 1}[claims.norm], -1)
    flat = points.double().flatten(2)
    return (size <= claims.radius.unsqueeze(1)) & (flat >= low).all(-1) & (flat <= high).all(-1)


def settle(points: Tensor, claims: Claims, box: tuple[float, float]) -> Tensor:
    """Bring float64 points (N, K, *F) into the region and round them, towards their centres, as inputs."""
    centre = claims.centres.unsqueeze(1)
    low, high = (float(torch.tensor(limit, dtype=torch.float64).to(centre.dtype)) for limit in box)
    wide = claims.radius.reshape(-1, 1, *[1] * (points.ndim - 2))
    away = points.clamp(low, high) - centre.double()
    if claims.norm == "linf":
        away = torch.minimum(torch.maximum(away, -wide), wide)
    else:
        size = torch.linalg.vector_norm(away.flatten(2), 2 if claims.norm == "l2" else 1, -1)
        size = size.reshape(*size.shape, *[1] * (points.ndim - 2))
        away = away * torch.where(size > wide, wide / size, torch.ones_like(size))
    rounded = (centre.double() + away).to(centre.dtype)
    over = (rounded.double() - centre.double()).abs() > away.abs()
    rounded = torch.where(over, neighbour(rounded, centre.expand_as(rounded)), rounded)
    safe = inside(rounded, claims.centres, claims, box)
    return torch.where(safe.reshape(*safe.shape, *[1] * (points.ndim - 2)), rounded, centre.expand_as(rounded))


_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def neighbour(values: Tensor, towards: Tensor) -> Tensor:
    """Return the next number of the precision towards another one (torch has none for every precision).

    >>> float(neighbour(torch.tensor(1.0, dtype=torch.float16), torch.tensor(2.0, dtype=torch.float16)))
    1.0009765625
    """
    kind = _BITS[values.element_size()]
    least = torch.iinfo(kind).min
    bits = (values.contiguous().view(kind), towards.contiguous().view(kind))
    own, other = (torch.where(part < 0, least - part, part) for part in bits)
    moved = own + (other > own).to(kind) - (other < own).to(kind)
    return torch.where(moved < 0, least - moved, moved).view(values.dtype)


def answers(case: Case, points: Tensor) -> Tensor:
    """Run the model as it is on points (…, *F), in one batch."""
    lead = points.shape[: points.ndim - case.inputs.ndim + 1]
    with torch.no_grad():
        return case.model(points.flatten(0, len(lead) - 1).clone()).unflatten(0, lead)


def truth(case: Case, points: Tensor) -> Tensor:
    """Run the network in float64, without casts."""
    lead = points.shape[: points.ndim - case.inputs.ndim + 1]
    with torch.no_grad():
        return case.exact(points.double().flatten(0, len(lead) - 1).clone()).unflatten(0, lead)


def climb(case: Case, claims: Claims, start: Tensor, noise: torch.Generator) -> list[Tensor]:
    """Go down the exact margin: by signs (l∞), along the gradient (l2), one coordinate (l1); points (N, *F)."""
    found, points = [], start
    wide = claims.radius.clamp(max=2 * (case.box[1] - case.box[0]) * start[0].numel())
    for step in range(STEPS):
        points = points.detach().requires_grad_()
        outputs = case.exact(points * 1)
        value = margins(outputs, claims.labels, claims.targets)
        (gradient,) = torch.autograd.grad(value.nan_to_num().sum(), points)
        flat = gradient.flatten(1)
        if claims.norm == "linf":
            move = flat.sign()
        elif claims.norm == "l2":
            move = flat / torch.linalg.vector_norm(flat, 2, 1, keepdim=True).clamp(min=1e-300)
        else:
            move = torch.zeros_like(flat).scatter(1, flat.abs().argmax(1, keepdim=True), 1.0) * flat.sign()
        length = wide.unsqueeze(1) * (2 * (1 - step / STEPS))
        moved = points.detach() - (length * move).reshape(points.shape)
        points = settle(moved.unsqueeze(1), claims, case.box).squeeze(1).double()
        found.append(points)
    return found[2::2] + found[-1:]


def draw(claims: Claims, count: int, noise: torch.Generator) -> Tensor:
    """Draw float64 points of the ball: dense, on its edge, at corners (N, K, *F)."""
    shape = (len(claims.centres), count, *claims.centres.shape[1:])
    flat = torch.rand(shape, generator=noise, dtype=torch.float64).flatten(2) * 2 - 1
    if claims.norm == "linf":
        flat[:, ::2] = flat[:, ::2].sign()
        flat[:, 1::4] *= flat[:, 1::4].abs() < 0.5
    elif claims.norm == "l2":
        flat = flat / torch.linalg.vector_norm(flat, 2, 2, keepdim=True)
    else:
        one = torch.nn.functional.one_hot(flat.abs().argmax(2), flat.shape[2]) * flat.sign()
        flat = torch.where(torch.arange(count).reshape(1, -1, 1) % 2 == 0, one, flat / flat.abs().sum(2, keepdim=True))
    wide = claims.radius.clamp(max=1e300).reshape(-1, 1, *[1] * (len(shape) - 2))
    return claims.centres.double().unsqueeze(1) + wide * flat.reshape(shape)


def attack(case: Case, claims: Claims, report: Callable[..., None], noise: torch.Generator) -> None:
    """Attack every claim; report each that a point inside breaks, and each number that a point contradicts.

    Points that the model answers the label at with the least margin are where rounding decides: draw around them.
    """
    box = (case.box[0], case.box[1])
    points = [claims.centres.unsqueeze(1), settle(draw(claims, DRAWS, noise), claims, box)]
    if len(case.corners):
        points.append(settle(case.corners.unsqueeze(0).expand(len(claims.centres), *case.corners.shape), claims, box))
    try:
        for start in range(STARTS):
            first = claims.centres.double() if start == 0 else draw(claims, 1, noise).squeeze(1)
            points += [settle(found.unsqueeze(1), claims, box) for found in climb(case, claims, first, noise)]
    except RuntimeError:
        pass  # in-place work that autograd cannot go back through: the draws are left
    tried = torch.cat(points, 1)
    for turn in range(ROUNDS + 1):
        outputs = answers(case, tried)
        values = margins(outputs, claims.labels, claims.targets)
        broken = ~(values > 0)
        _tell(case, claims, tried, values, broken, f"batch {tried.shape[0] * tried.shape[1]}", report)
        _compare(case, claims, tried, values, report)
        if turn < ROUNDS:
            best = values.nan_to_num(-torch.inf).topk(min(3, tried.shape[1]), 1, largest=False).indices
            rows = torch.arange(len(best)).unsqueeze(1)
            tried = settle(_jitter(tried[rows, best], claims, noise), claims, box)
    _alone(case, claims, tried, values, report)


def _jitter(best: Tensor, claims: Claims, noise: torch.Generator) -> Tensor:
    """Draw around points (N, K, *F): a few units in the last place, or a share of the radius, in some coordinates."""
    wide = best.repeat_interleave(DRAWS // 3, 1).double()
    some = torch.rand(wide.shape, generator=noise, dtype=torch.float64) < 0.5
    moves = torch.randn(wide.shape, generator=noise, dtype=torch.float64)
    grain = wide.abs().clamp(min=1e-30) * torch.finfo(claims.centres.dtype).eps * 2
    ball = claims.radius.clamp(max=1e300).reshape(-1, 1, *[1] * (wide.ndim - 2))
    share = torch.where(torch.rand(wide.shape[:2], generator=noise) < 0.5, 0.0, 0.2).double()
    return wide + some * moves * (grain + share.reshape(*share.shape, *[1] * (wide.ndim - 2)) * ball)


def _alone(case: Case, claims: Claims, tried: Tensor, values: Tensor, report: Callable[..., None]) -> None:
    """Run the least point of each claim in other company: alone, and all in reverse order."""
    least = values.nan_to_num(-torch.inf).argmin(1)
    points = tried[torch.arange(len(tried)), least].unsqueeze(1)
    backwards = answers(case, points.flip(0)).flip(0)
    for name, outputs in (
        ("reversed", backwards),
        ("batch 1", torch.stack([answers(case, point) for point in points[:8]])),
    ):
        part = len(outputs)
        found = margins(outputs, claims.labels[:part], claims.targets[:part])
        _tell(case, claims, points[:part], found, ~(found > 0), name, report)


def _tell(
    case: Case, claims: Claims, tried: Tensor, values: Tensor, broken: Tensor, how: str, report: Callable[..., None]
) -> None:
    """Report certified claims that a point breaks."""
    wrong = broken & claims.certified[: len(broken)].unsqueeze(1)
    for row in wrong.any(1).nonzero()[:, 0].tolist():
        at = int(wrong[row].int().argmax())
        safe = inside(tried[row : row + 1, at : at + 1], claims.centres[row : row + 1], _row(claims, row), case.box)
        if bool(safe):
            report("broken", claims, row, value=float(values[row, at]), how=how, point=tried[row, at])


def _compare(case: Case, claims: Claims, tried: Tensor, values: Tensor, report: Callable[..., None]) -> None:
    """Compare reported margins with the exact network's, and the rounding seen with the slack."""
    exact = margins(truth(case, tried), claims.labels, claims.targets)
    known = exact.isfinite()
    slack, margin = claims.slack.unsqueeze(1), claims.margin.unsqueeze(1)
    # What float64 itself may round, as a share of what the model's own precision may.
    worst = max(torch.finfo(getattr(torch, name)).eps for name in case.dtypes)
    least = min(torch.finfo(getattr(torch, name)).eps for name in case.dtypes)
    doubt = slack * (4 * torch.finfo(torch.float64).eps / least if worst > 1e-15 else 1.0)
    low = known & (exact < margin - doubt) & doubt.isfinite()
    for row in low.any(1).nonzero()[:, 0].tolist():
        at = int(low[row].int().argmax())
        report("margin", claims, row, value=float(exact[row, at]), how="exact", point=tried[row, at])
    # NaN and ∞ as the model runs are answers too: whoever stated a finite bound denied them.
    run = margin - slack
    under = run.isfinite() & ~(values >= run)
    for row in under.any(1).nonzero()[:, 0].tolist():
        at = int(under[row].int().argmax())
        report("run", claims, row, value=float(values[row, at]), how="as it runs", point=tried[row, at])
    seen = (values - exact).abs()
    ratio = torch.where(known & values.isfinite() & slack.isfinite() & (seen > 0), seen / slack, 0.0)
    report("ratio", claims, 0, value=float(ratio.amax()), how="", point=tried[0, 0])


def _row(claims: Claims, row: int) -> Claims:
    """Return one claim."""
    cut = slice(row, row + 1)
    return Claims(
        norm=claims.norm,
        centres=claims.centres[cut],
        labels=claims.labels[cut],
        targets=claims.targets[cut],
        radius=claims.radius[cut],
        margin=claims.margin[cut],
        slack=claims.slack[cut],
        certified=claims.certified[cut],
        names=claims.names[cut],
    )
