"""Spectral-norm regularisation: learn with layers that stretch little, so that a product of norms proves more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trustbound.attacks.refusals import whole
from trustbound.errors import InputError, UnsupportedError
from trustbound.hardening.objectives.context import Batch, Context
from trustbound.hardening.objectives.layer_intervals import linear_part
from trustbound.hardening.objectives.objective import Outcome, State
from trustbound.tasks.task import real

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True, kw_only=True)
class LipschitzTraining:
    """Cross-entropy, and a penalty on the spectral norm of every linear layer and convolution.

    Lifts       the certified l2 radius by products of layer norms (`lipschitz`).
    Loss        CE(f(x), y) + weight / 2 · Σ σ(W)² over linear layers, convolutions as the maps that they are (stride
                and padding included) and batch norms, σ = max |γ| / √(variance + eps) by running statistics.
    Update      v <- Wᵀu / ‖Wᵀu‖;  u <- W v / ‖W v‖, `rounds` times a step;  σ = uᵀ W v, whose gradient is u vᵀ.
    State       u of every layer, kept from step to step.
    Shapes      inputs (B, *F) in the box; labels (B,) int64; logits (B, C); loss ().
    Metrics     accuracy, in train mode; product of the layers' norms, an estimate: power iteration comes from below.
    Cost        per example: 1 forward and backward; the penalty asks the layers' weights alone.
    Randomness  where u starts, fixed.
    Raises      InputError for numbers out of range; UnsupportedError for a model without such layers.
    Reference   Yoshida and Miyato, Spectral Norm Regularization for Improving the Generalizability of Deep Learning,
                2017 (1705.10941), equation 4 and algorithm 1.
    Deviations  convolutions as maps of whole inputs, not as reshaped weights; batch norms are counted.

    >>> LipschitzTraining(weight=0.02).rounds
    1
    """

    threat: ClassVar[bool] = False

    weight: float = 0.01
    rounds: int = 1

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        weight = real(self.weight)
        if weight is None or not 0.0 <= weight < float("inf"):
            raise InputError(f"`weight` of the penalty must be a finite number at least 0; got {self.weight!r}")
        whole("rounds", self.rounds)

    def init(self, context: Context) -> State:
        """No vectors yet: what each layer sees is known after the first forward."""
        if not any(isinstance(layer, _LAYERS) for layer in context.model.modules()):
            raise UnsupportedError("lipschitz training needs a linear layer or a convolution; the model has none")
        return {}

    def step(self, context: Context, state: State, batch: Batch) -> Outcome:
        """Mean cross-entropy of the batch and the penalty."""
        with _extents(context.model) as extents:
            logits = context.logits(batch.inputs)
        norms, vectors = [], {}
        for name, layer in context.model.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_var is not None:
                gain = (layer.running_var + layer.eps).rsqrt()
                norms.append((gain if layer.weight is None else gain * layer.weight.abs()).max())
            elif layer in extents:
                norm, vectors[name] = self._norm(layer, extents[layer], state.get(name))
                norms.append(norm)
        sizes = torch.stack(norms)
        loss = F.cross_entropy(logits, batch.labels) + self.weight / 2 * sizes.square().sum()
        right = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return loss, vectors, {"accuracy": right, "product": sizes.detach().prod()}

    def _norm(self, layer: nn.Module, extent: tuple[int, ...], kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """The spectral norm of a layer on inputs of a shape, and the output direction to go on from."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        if kept is None or kept.shape != linear_part(layer, weight.detach(), weight.new_zeros(1, *extent)).shape:
            shape = linear_part(layer, weight.detach(), weight.new_zeros(1, *extent)).shape
            kept = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight)
        left, fixed = kept.to(weight), weight.detach()
        for _ in range(self.rounds):
            right = _unit(_transposed(layer, fixed, left, extent))
            left = _unit(linear_part(layer, fixed, right))
        return (left * linear_part(layer, weight, right)).sum(), left


@contextlib.contextmanager
def _extents(model: nn.Module) -> Iterator[dict[nn.Module, tuple[int, ...]]]:
    """The shape of one example as each layer sees it."""
    seen: dict[nn.Module, tuple[int, ...]] = {}

    def looked(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[layer] = tuple(given[0].shape[1:]) if not isinstance(layer, nn.Linear) else (given[0].shape[-1],)

    handles = [part.register_forward_pre_hook(looked) for part in model.modules() if isinstance(part, _LAYERS)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _transposed(layer: nn.Module, weight: Tensor, outputs: Tensor, extent: tuple[int, ...]) -> Tensor:
    """The transpose of the same, by its gradient."""
    with torch.enable_grad():
        inputs = outputs.new_zeros(1, *extent, requires_grad=True)
        back: Tensor = torch.autograd.grad(linear_part(layer, weight, inputs), inputs, outputs)[0]
    return back


def _unit(vector: Tensor) -> Tensor:
    """At length 1; zeros stay zeros."""
    length: Tensor = vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
    return vector / length
