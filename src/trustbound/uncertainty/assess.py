"""Every score of predictive uncertainty, clean and attacked, on one split into calibration and evaluation examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trustbound.errors import InputError
from trustbound.metrics.margin import pick
from trustbound.record.binomial import binomial_interval
from trustbound.record.scores import ConformalScore, UncertaintyReport
from trustbound.uncertainty.conformal import Aps, Scorer, Threshold, calibrate
from trustbound.uncertainty.outputs import check_outputs
from trustbound.uncertainty.softmax import calibration_scores
from trustbound.uncertainty.temperature import fit_temperature

SCORERS: tuple[Scorer, ...] = (Threshold(), Aps())


def split(n: int, calibration_share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Row numbers of the calibration and of the evaluation examples, each increasing, disjoint, together all.

    Randomness  a permutation drawn by Philox from `seed` alone: the same n and seed give the same split
                everywhere.

    >>> calibration, evaluation = split(10, 0.5, 0)
    >>> len(calibration), sorted(calibration.tolist() + evaluation.tolist()) == list(range(10))
    (5, True)
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(n)
    held = round(n * calibration_share)
    return torch.from_numpy(np.sort(order[:held])), torch.from_numpy(np.sort(order[held:]))


def assess(
    logits: Tensor,
    labels: Tensor,
    attacked: Tensor | None = None,
    *,
    scorers: Sequence[Scorer] = SCORERS,
    calibration_share: float = 0.5,
    seed: int = 0,
    bins: int = 15,
) -> UncertaintyReport:
    """Measure predictive uncertainty clean and, where logits of attacked inputs are given, under attack.

    The plain scores use every example, since nothing is fitted for them. Temperature and conformal quantiles
    are fitted on clean calibration examples and measured on the others, clean and attacked. The conformal
    sets are made from the unscaled logits: a temperature fitted on their own calibration examples would break
    the promise.

    Shapes      logits (N, C); labels (N,) int64; attacked (N, C): row i belongs to the same example as
                logits[i], with the clean logits where no adversarial input was found.
    Randomness  the split and one uniform per example, by Philox from `seed`; the same uniform clean and
                attacked.
    Raises      InputError for refused outputs, or for a share outside (0, 1).
    Reference   see `softmax.calibration_scores`, `temperature.fit_temperature` and `conformal`.
    Deviations  none.

    >>> generator = torch.Generator().manual_seed(0)
    >>> logits = 3 * torch.randn(1000, 4, generator=generator)
    >>> labels = logits.softmax(1).multinomial(1, generator=generator).squeeze(1)
    >>> found = assess(logits, labels, attacked=-logits)
    >>> [(row.method, row.coverage_clean > 0.85, row.coverage_attacked < 0.5) for row in found.conformal]
    [('threshold', True, True), ('aps', True, True)]
    """
    check_outputs(logits, labels)
    if attacked is not None:
        check_outputs(attacked, labels, "attacked")
        if attacked.shape != logits.shape:
            raise InputError(
                "`attacked` must have the shape of `logits`; got "
                f"{tuple(attacked.shape)} and {tuple(logits.shape)}. Pass one row per clean row."
            )
    if not 0.0 < calibration_share < 1.0:
        raise InputError(f"`calibration_share` must lie strictly between 0 and 1; got {calibration_share}. Use 0.5.")
    n = len(labels)
    logits, labels = logits.detach().cpu(), labels.cpu()
    attacked = None if attacked is None else attacked.detach().cpu()
    fitted, held = split(n, calibration_share, seed)
    uniforms = torch.from_numpy(np.random.Generator(np.random.Philox(key=seed, counter=1 << 128)).random(n))
    enough = bool(len(fitted)) and bool(len(held))
    temperature = (
        fit_temperature(logits[fitted], labels[fitted], logits[held], labels[held], bins=bins) if enough else None
    )
    scaled = temperature is not None and temperature.scale
    divisor = temperature.applied if temperature is not None else 1.0
    return UncertaintyReport(
        n_calibration=len(fitted),
        n_evaluation=len(held),
        clean=calibration_scores(logits, labels, bins=bins),
        attacked=None if attacked is None else calibration_scores(attacked, labels, bins=bins),
        temperature=temperature,
        scaled_clean=calibration_scores(logits[held].double() / divisor, labels[held], bins=bins) if scaled else None,
        scaled_attacked=(
            calibration_scores(attacked[held].double() / divisor, labels[held], bins=bins)
            if scaled and attacked is not None
            else None
        ),
        conformal=tuple(
            _conformal(scorer, logits, attacked, labels, uniforms, fitted, held)
            for scorer in (scorers if enough else ())
        ),
    )


def _conformal(
    scorer: Scorer,
    logits: Tensor,
    attacked: Tensor | None,
    labels: Tensor,
    uniforms: Tensor,
    fitted: Tensor,
    held: Tensor,
) -> ConformalScore:
    """Calibrate one method on the clean calibration examples and measure it on the others."""
    method = calibrate(scorer, logits[fitted], labels[fitted], uniforms[fitted])

    def measured(outputs: Tensor) -> tuple[float, tuple[float, float], float]:
        sets = method.sets(outputs[held], uniforms[held])
        hits = int(pick(sets, labels[held]).sum())
        return hits / len(held), binomial_interval(hits, len(held)), float(sets.sum(1).double().mean())

    coverage, interval, set_size = measured(logits)
    under = None if attacked is None else measured(attacked)
    return ConformalScore(
        method=scorer.name,
        level=scorer.level,
        n_calibration=len(fitted),
        n=len(held),
        quantile=method.quantile,
        coverage_clean=coverage,
        coverage_interval=interval,
        mean_set_size=set_size,
        coverage_attacked=under[0] if under else None,
        coverage_interval_attacked=under[1] if under else None,
        mean_set_size_attacked=under[2] if under else None,
    )
