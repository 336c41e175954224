"""A classifier smoothed by noise: its answer is the class that most noisy copies of an input get.

Noise lies on a grid whose points the inputs' type holds exactly. With x on the grid too, x + round(N) = round(x + N):
what is computed, the sum's own rounding included, is a function of x + N in the real numbers, as the theorems on
smoothing ask for, and nothing of x shows through in the low bits of a rounded sum (Voráček and Hein, Sound Randomized
Smoothing in Floating-Point Arithmetics, 2023, arXiv:2207.07209).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.metrics.decision import answered
from trustbound.model.defences.adaptation import Adaptation, around
from trustbound.model.wrapping import Model, wrap
from trustbound.record.box import Box
from trustbound.tasks.task import real

KINDS = ("gaussian", "uniform")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Independent noise of every feature, in units of the inputs, before normalisation.

    Parameters
        noise_std   standard deviation σ.
        kind        "gaussian", or "uniform" on [−λ, λ] with λ = √3 σ.

    Raises      InputError for a standard deviation that is no number above 0 and an unknown kind.

    >>> Noise(noise_std=0.25).grain(Box(0.0, 1.0), torch.float32) * 2**21
    1.0
    """

    noise_std: float
    kind: str = "gaussian"

    def __post_init__(self) -> None:
        """Refuse what is no noise."""
        std = real(self.noise_std)
        if std is None or not 0.0 < std < math.inf:
            raise InputError(f"`noise_std` must be a finite number above 0, in units of the inputs; got {std!r}")
        object.__setattr__(self, "noise_std", std)
        if self.kind not in KINDS:
            raise InputError(f"`noise` must be one of {', '.join(KINDS)}; got {self.kind!r}")

    @property
    def reach(self) -> float:
        """λ = √3 σ, where uniform noise ends."""
        return math.sqrt(3.0) * self.noise_std

    def grain(self, box: Box, dtype: torch.dtype) -> float:
        """The grid's spacing, a power of two: about σ · 2⁻²⁰, coarser where a wide box leaves the type no room.

        Float32 and float64 hold every point of the grid up to 16 σ and up to the box's limits: whole numbers below 2²⁴.
        Normal numbers made of 53 bits end before 9 σ.
        """
        size = max(float(np.max(np.abs(box.low))), float(np.max(np.abs(box.high))))
        kept = 24 if dtype == torch.float32 else 48
        return math.ldexp(1.0, max(math.frexp(self.noise_std)[1] - 20, math.frexp(size)[1] - kept))

    def of(self, standard: Tensor, grain: float) -> Tensor:
        """Noise on the grid, float64: of standard normal numbers, or of numbers in [0, 1) where it is uniform."""
        if self.kind == "gaussian":
            return snapped(standard.double() * self.noise_std, grain)
        return snapped((2.0 * standard.double() - 1.0) * self.reach, grain)


def snapped(values: Tensor, grain: float) -> Tensor:
    """Values on the nearest points of the grid, float64, exactly.

    >>> snapped(torch.tensor([0.3, 0.4]), 0.25)
    tensor([0.2500, 0.5000], dtype=torch.float64)
    """
    return (values.double() / grain).round_().mul_(grain)


class Smoothed(nn.Module):
    """One vote for the class of an input under noise: averaged over draws, the shares of the votes.

    Parameters  network     the model that is asked; `noise`: what is added to its inputs.
    Shapes      inputs (B, *F) → votes (B, C), a single 1 in each row; NaN where the network gives no answer.
    Adaptation  votes of `draws` passes are averaged (expectation over transformation); the gradient is that of the
                softmax, as an attacker who knows the defence takes it.
    Randomness  torch's global generator, a draw for each row and call.
    Reference   Cohen, Rosenfeld and Kolter, Certified Adversarial Robustness via Randomized Smoothing, 2019,
                arXiv:1902.02918, equation 1; Salman et al., Provably Robust Deep Learning via Adversarially Trained
                Smoothed Classifiers, 2019, arXiv:1906.04584, equation 6, for the gradient.
    Deviations  noise and inputs are rounded to a fine grid; the gradient is that of the mean softmax at the same
                draws as the votes.
    """

    def __init__(self, network: Model, noise: Noise, *, draws: int) -> None:
        super().__init__()
        self.network, self.noise = network, noise
        self.grain = noise.grain(network.box, network.input_dtype)
        self.adaptation = around(network, draws=draws)
        # Part of what tells it from others: its digest is that of its tensors.
        told = torch.tensor([noise.noise_std, float(KINDS.index(noise.kind))], dtype=torch.float64)
        self.register_buffer("told", told)
        self.training = network.training

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, C)."""
        drawn = torch.randn if self.noise.kind == "gaussian" else torch.rand
        standard = drawn(inputs.shape, dtype=torch.float64, device=inputs.device)
        placed = snapped(inputs.detach(), self.grain)
        if inputs.requires_grad:  # the identity stands in for the rounding
            placed = inputs.double() + (placed - inputs.detach().double())
        moved = placed.to(inputs.dtype) + self.noise.of(standard, self.grain).to(inputs.dtype)
        outputs: Tensor = self.network(moved)
        votes = functional.one_hot(outputs.detach().double().argmax(1), outputs.shape[1]).to(outputs.dtype)
        votes = votes.masked_fill(~answered(outputs).unsqueeze(1), torch.nan)
        if not outputs.requires_grad:
            return votes
        chances = outputs.softmax(1)
        return votes + (chances - chances.detach())


def smooth(model: nn.Module | Model, noise_std: float, *, noise: str = "gaussian", draws: int = 64) -> Model:
    """Smooth a classifier by noise: the model whose certificates `certify("smoothing", …)` are.

    It is another model than the one inside: attacks on it average over `draws` draws of the noise, and a bound of the
    one is no bound of the other.

    Parameters
        noise_std   standard deviation of the noise, in units of the inputs.
        noise       "gaussian" (certificates in l2), or "uniform" (in l1).
        draws       noisy copies that an attack asks about at each look.

    Raises      InputError for numbers that are none; for a model that is no classifier, has a detector or averages over
                draws itself.

    >>> voting = smooth(wrap(nn.Linear(2, 3)), 0.25, draws=8)
    >>> voting(torch.rand(4, 2)).sum(1).tolist(), voting.adaptation.draws
    ([1.0, 1.0, 1.0, 1.0], 8)
    """
    inner = wrap(model)
    smoothable(inner)
    module = Smoothed(inner, Noise(noise_std=noise_std, kind=noise), draws=Adaptation(draws=draws).draws)
    return wrap(
        module,
        box=inner.box,
        name=f"{inner.name} smoothed",
        input_shape=inner.input_shape,
        classes=inner.classes,
        task=inner.task,
    )


def smoothable(model: Model) -> None:
    """Refuse a model that is no function from one input to one class."""
    if isinstance(model.module, Smoothed):
        raise InputError(f"{model.name} is smoothed already; smooth the network inside")
    if not model.task.plain:
        raise InputError(f"smoothing needs a classifier, whose noisy copies vote; got the task {model.task}")
    if model.adaptation.draws > 1 or model.adaptation.detector is not None:
        raise InputError(
            f"smoothing needs a model that answers by itself; {model.name} declares draws={model.adaptation.draws}"
            f"{' and a detector' if model.adaptation.detector is not None else ''}. Smooth the network inside."
        )
    for path, part in model.named_modules():
        batch = isinstance(part, nn.modules.batchnorm._BatchNorm)
        if batch and (part.training or part.running_mean is None):
            raise InputError(
                f"smoothing needs rows that do not see each other; {path} ({type(part).__name__}) normalises by the "
                "batch. Call model.eval(), with running statistics."
            )
    if model.dtype not in (torch.float32, torch.float64):
        raise InputError(f"smoothing needs a model in float32 or float64; {model.name} is {model.dtype}. Call .float()")
