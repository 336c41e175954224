"""Randomised smoothing: a certificate, with a stated confidence, of the classifier that votes under noise."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from trustbound.attacks.model_access.oracle import Oracle
from trustbound.certificates.certifying import CertificationResult
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.methods.votes import counted
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.decision import NO_ANSWER
from trustbound.metrics.in_box import placed
from trustbound.model.defences.smoothed import Noise, Smoothed, smoothable
from trustbound.model.wrapping import Model, wrap
from trustbound.record.binomial import binomial_lower
from trustbound.record.box import Box
from trustbound.record.cost import Cost
from trustbound.tasks.task import Task, real
from trustbound.threat.random import new_key
from trustbound.threat.threat import Threat

#: What a radius is shortened by, relatively: more than the inverse of the normal distribution rounds.
_INWARD = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SmoothingResult(CertificationResult):
    """What was certified of each example, of the smoothed model.

    Shapes      radius (B,) float64, certified around the input, 0 where the method abstains or the votes chose another
                class than the label; selected (B,) int64, the class of the most selection draws; abstained (B,) bool,
                no certificate though the label was selected; probability (B,) float64, lower limit of the
                probability that a noisy copy gets the label; draws (B,) int64, spent on that limit.
    family      how many statements hold at once, except with `failure_probability`.
    cost        every forward pass, as the oracle counted it.

    `margin` is a lower bound, over the region, of P(label) − P(any other class) under noise.
    """

    radius: Tensor
    selected: Tensor
    abstained: Tensor
    probability: Tensor
    draws: Tensor
    failure_probability: float
    family: int
    cost: Cost
    noise: Noise

    @property
    def claim(self) -> str:
        """Of which model, and how surely."""
        together = "each statement holds" if self.family == 1 else f"all {self.family} statements hold together"
        return (
            f"of the model smoothed by {self.noise.kind} noise of standard deviation {self.noise.noise_std:g}; "
            f"{together} except with probability {self.failure_probability:g}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Smoothing:
    """Certify the smoothed classifier: the class that the model inside gives to most noisy copies of an input.

    Bound       Lower, of the smoothed model alone (`tb.smooth`); it says nothing about the model inside. Probabilistic:
                all certificates of a call hold together except with `failure_probability`, over the draws of the noise
                (Bonferroni: each of `family` examples gets an equal share).
    Needs       a classifier that answers row by row, of any kind.  Norms: l2 and l1, gaussian noise (‖·‖₂ ≤ ‖·‖₁); l1,
                uniform noise.  Goal: misclassify.
    Update      class  <- most votes of `selection_draws` draws;  votes <- of `draws` others for that class;
                p <- one-sided Clopper-Pearson limit;  abstain unless p > 1/2; with `looks` above 1 the votes are
                looked at after draws / 2^(looks − 1), …, draws / 2, draws of them, each time with an equal share of
                the failure probability, so that all limits hold together, and whoever is certified at a look is done;
                radius <- σ Φ⁻¹(p), gaussian;  radius <- λ (2p − 1), λ = √3 σ, uniform.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; radius (B,).
    Cost        per example: `selection_draws` forwards; then `draws` more where the selected class is the label. Where
                it is not, the example counts as not certified. Noise comes in blocks: memory does not grow with draws.
    Randomness  the noise of a draw is a function of (key, stream, draw), the same for all examples of a call: each
                certificate holds by itself, and Bonferroni asks for no independence between them. Inputs must not have
                been chosen by looking at the same noise: pass another `generator`.
    Raises      InputError for numbers out of range and models that rows of a batch see each other in; UnsupportedError
                for other goals, and for l2 under uniform noise.
    Rounding    inputs and noise lie on a grid of about σ · 2⁻²⁰, so that what the network sees is a function of x + N
                exactly (`model/defences/smoothed.py`); what rounding to the grid moves is added to the radius that is
                to be certified. Not covered: pseudo-random numbers are taken for random ones, and normal to the 53
                bits that they have; and the network is taken for one function, whatever its kernels round in batches
                of other sizes.
    Reference   Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, 2019,
                arXiv:1902.02918, theorem 1, CERTIFY and PREDICT of section 3.2, with their n₀, n and α; Yang, Duan, Hu,
                Salman, Razenshteyn and Li, Randomized Smoothing of All Shapes and Sizes, 2020, arXiv:2002.08118, for
                uniform noise in l1.
    Deviations  the failure probability is shared by the examples (`family=1` is the papers': each for itself); the
                examples share their noise; estimation is left out where the selected class is not the label. More
                looks than one are ours: a radius is then at least the size that was asked for, not the largest.

    Parameters
        noise_std               σ; None for the noise of a model that `tb.smooth` made.
        noise                   "gaussian" or "uniform".
        draws, selection_draws  the papers' n and n₀.
        failure_probability     the papers' α.
        family                  over how many examples it is shared; those of the call unless given, 1 for none.
        looks                   how often the votes are looked at, 1 as in the papers.

    >>> from trustbound.certificates import certify
    >>> linear = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(linear.weight)
    >>> inputs, labels = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 0])
    >>> found = certify("smoothing", linear, inputs, labels, "l2:0.3", box=(0.0, 1.0), noise_std=0.25, draws=1000)
    >>> found.certified, (found.radius < (inputs[:, 0] - inputs[:, 1]) / 2**0.5).all()
    (tensor([ True, False]), tensor(True))
    """

    norms: ClassVar[tuple[str, ...]] = ("l2", "l1")

    noise_std: float | None = None
    noise: str = "gaussian"
    draws: int = 100_000
    selection_draws: int = 100
    failure_probability: float = 0.001
    family: int | None = None
    looks: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        for name in ("draws", "selection_draws", "family", "looks"):
            value = getattr(self, name)
            if not (type(value) is int and value >= 1) and not (name == "family" and value is None):
                raise InputError(f"`{name}` must be a whole number, at least 1; got {value!r}")
        chance = real(self.failure_probability)
        if chance is None or not 0.0 < chance < 1.0:
            raise InputError(f"`failure_probability` must lie strictly between 0 and 1; got {chance!r}")
        Noise(noise_std=1.0 if self.noise_std is None else self.noise_std, kind=self.noise)

    def certify(
        self,
        model: nn.Module | Graph,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        *,
        box: Box,
        batch_size: int | None,
        key: int,
        task: Task,
    ) -> SmoothingResult:
        """CERTIFY for inputs (B, *F) that `certify` has checked: what is proven of them to their sizes (B,) and τ."""
        started = time.perf_counter()
        inner, noise = self._asked(model, box)
        norm = threat.perturbations.norm
        if threat.goal.name != "misclassify":
            raise UnsupportedError(f"no proof: smoothing serves the goal misclassify; got {threat.goal}")
        if noise.kind == "uniform" and norm != "l1":
            raise UnsupportedError(f"no proof: uniform noise serves l1; got {norm}. Take noise='gaussian'.")
        family = len(inputs) if self.family is None else self.family
        if 1 < family < len(inputs):
            raise InputError(
                f"`family` must be 1, each example for itself, or count the {len(inputs)} of the call at least; got "
                f"{family}"
            )
        features = math.prod(inputs.shape[1:])
        reach = sizes + threat.perturbations.tolerance(box, features)
        size = reach + _rounded(inputs, inner.input_dtype)
        size = size + _moved(features, norm) * noise.grain(inner.box, inner.input_dtype)
        rows = torch.arange(len(inputs), device=inner.device)
        centres = placed(inputs.detach(), box).to(inner.device)
        with (
            Oracle(inner, examples=len(inputs), batch_size=batch_size, key=key, task="smoothing") as oracle,
            oracle.booking("proof"),
        ):
            votes = counted(
                oracle, noise, centres, rows, draws=self.selection_draws, key=key, stream="smoothing-selection"
            )
            if len(inputs):
                inner.task.check_fit(labels, (votes.shape[1],))
            selected = _most(votes)
            right = (selected == labels.cpu()).nonzero()[:, 0]

            def wins(asked: Tensor, first: int, until: int) -> Tensor:
                """How many of these draws vote for the selected classes of examples (R,)."""
                votes = counted(
                    oracle,
                    noise,
                    centres,
                    rows[asked],
                    first=first,
                    draws=until,
                    key=key,
                    stream="smoothing-estimation",
                )
                return votes.gather(1, selected[asked].unsqueeze(1)).squeeze(1)

            probability, draws = self._estimated(wins, right, noise, size, self.failure_probability / family)
            cost = replace(oracle.cost, seconds=time.perf_counter() - started)
        margin, radius = worst_margin(noise, probability, size), certified_radius(noise, probability)
        abstained = torch.zeros(len(inputs), dtype=torch.bool)
        abstained[right] = radius[right] == 0.0
        return SmoothingResult(
            name="smoothing",
            certified=(radius > size).to(inner.device),
            margin=margin.to(inner.device),
            slack=torch.zeros_like(margin, device=inner.device),
            seconds=cost.seconds,
            radius=radius,
            selected=selected,
            abstained=abstained,
            probability=probability,
            draws=draws,
            failure_probability=self.failure_probability,
            family=family,
            cost=cost,
            noise=noise,
        )

    def _estimated(
        self, wins: Callable[[Tensor, int, int], Tensor], right: Tensor, noise: Noise, size: Tensor, chance: float
    ) -> tuple[Tensor, Tensor]:
        """Lower limits of p (B,) of the examples `right`, wrong with at most `chance` each; and the draws spent."""
        probability, draws = torch.zeros_like(size), torch.zeros(len(size), dtype=torch.int64)
        won = torch.zeros_like(draws)
        for look in reversed(range(self.looks)):
            first, until = int(draws[right].max()) if len(right) else 0, math.ceil(self.draws / 2**look)
            if not len(right) or until == first:
                continue
            won[right] += wins(right, first, until)
            draws[right] = until
            for row in right.tolist():
                limit = binomial_lower(int(won[row]), until, chance / self.looks)
                probability[row] = max(float(probability[row]), limit)
            right = right[certified_radius(noise, probability[right]) <= size[right]]
        return probability, draws

    def predict(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        box: Box | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """PREDICT: the smoothed model's class of inputs (B, *F), −1 where the votes leave it open.

        Each answer is wrong with at most `failure_probability`, by itself; `family` is not looked at.
        """
        from scipy.special import betainc

        key = new_key(generator)
        inner, noise = self._asked(model, box)
        rows = torch.arange(len(inputs), device=inner.device)
        with (
            Oracle(inner, examples=len(inputs), batch_size=batch_size, key=key, task="smoothing") as oracle,
            oracle.booking("proof"),
        ):
            centres = placed(inputs.detach(), inner.box).to(inner.device)
            votes = counted(oracle, noise, centres, rows, draws=self.draws, key=key, stream="smoothing-prediction")
        if votes.shape[1] < 2:
            return _most(votes)
        two = votes.topk(2, dim=1).values.double().numpy()
        # Two-sided binomial test of a fair coin: as uneven a split, or more so.
        chance = 2.0 * betainc(two[:, 0].clip(1), two[:, 1] + 1, 0.5)
        sure = torch.as_tensor(chance <= self.failure_probability) & (votes.sum(1) > 0)
        return _most(votes).masked_fill(~sure, NO_ANSWER)

    def _asked(self, model: nn.Module | Graph, box: Box | None) -> tuple[Model, Noise]:
        """The model inside and its noise: this certifier's, or that of a model which is smoothed already."""
        if isinstance(model, Graph):
            raise InputError("smoothing asks the model itself about noisy inputs; got its list of operations")
        outer = wrap(model) if isinstance(model, Model) else wrap(model, box=box)
        if not isinstance(outer.module, Smoothed):
            if self.noise_std is None:
                raise InputError(
                    "smoothing needs `noise_std`, the standard deviation of the noise, e.g. noise_std=0.25, unless the "
                    "model comes from smooth; got neither"
                )
            smoothable(outer)
            return outer, Noise(noise_std=self.noise_std, kind=self.noise)
        noise = outer.module.noise
        if self.noise_std is not None and Noise(noise_std=self.noise_std, kind=self.noise) != noise:
            raise InputError(
                f"the model is smoothed by {noise}; got noise_std={self.noise_std}, noise={self.noise!r}. "
                "Leave both out."
            )
        smoothable(outer.module.network)
        return outer.module.network, noise


def certified_radius(noise: Noise, probability: Tensor) -> Tensor:
    """The radius at which a class keeps more than half of the noise's probability, (B,); 0 where it has not.

    Shapes      probability (B,) float64, lower limits: of l2 for gaussian noise, of l1 for uniform noise.

    >>> certified_radius(Noise(noise_std=0.5), torch.tensor([0.5, 0.8413447]).double()).round(decimals=5)
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    if noise.kind == "gaussian":
        radius = noise.noise_std * torch.special.ndtri(probability)
    else:
        radius = noise.reach * (2.0 * probability - 1.0)
    return torch.where(probability > 0.5, radius * (1.0 - _INWARD), 0.0)


def worst_margin(noise: Noise, probability: Tensor, size: Tensor) -> Tensor:
    """Bound P(label) − P(any other class) from below at distances up to `size` (B,), (B,); −1 where nothing is known.

    >>> worst_margin(Noise(noise_std=0.5), torch.tensor([0.8413447]).double(), torch.tensor([0.5])).abs() < 1e-6
    tensor([True])
    """
    left: Tensor
    if noise.kind == "gaussian":
        left = torch.special.ndtr(torch.special.ndtri(probability) - size / noise.noise_std)
    else:
        left = (probability - size / (2.0 * noise.reach)).clamp(min=0.0)
    return 2.0 * left - 1.0


def _moved(features: int, norm: str) -> float:
    """What rounding two points to a grid of spacing 1 may add to their distance."""
    return (math.sqrt(features) if norm == "l2" else float(features)) * (1.0 + _INWARD)


def _rounded(inputs: Tensor, working: torch.dtype) -> Tensor:
    """Bound how far inputs (B, *F) lie from those that a search rounds them to, in l2 and l1: (B,) float64."""
    away = (inputs.detach().double() - inputs.detach().to(working).double()).flatten(1).abs().cpu()
    return away.sum(1) * (1.0 + _INWARD)


def _most(votes: Tensor) -> Tensor:
    """The class of the most votes, the first of equals; `NO_ANSWER` where nobody voted."""
    if not votes.numel():
        return torch.zeros(len(votes), dtype=torch.int64)
    return votes.argmax(1).masked_fill(votes.sum(1) == 0, NO_ANSWER)
