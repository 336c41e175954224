"""Activations of which only the largest are kept: a gradient that jumps everywhere."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from trustbound.errors import InputError
from trustbound.model.defences.adaptation import Adaptation


class KWinnersTakeAll(nn.Module):
    """Keep the largest `share` of all activations of an example, set the others to zero.

    Reference   Xiao, Zhong and Zheng, Enhancing Adversarial Defense by k-Winners-Take-All, 2020.

    >>> KWinnersTakeAll(0.5)(torch.tensor([[3.0, -1.0, 2.0, 0.5]]))
    tensor([[3., 0., 2., 0.]])
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise InputError(f"`share` must lie in (0, 1]; got {share}")
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, *F)."""
        flat = inputs.flatten(1)
        winners = max(1, int(self.share * flat.shape[1]))
        least = flat.topk(winners, dim=1).values[:, -1]
        won = inputs >= least.reshape(-1, *(1,) * (inputs.dim() - 1))
        return torch.where(won, inputs, 0.0)


def with_k_winners(network: nn.Module, share: float = 0.2) -> nn.Module:
    """A copy of a network in which each ReLU is replaced by k-winners-take-all.

    Adaptation  the ReLU stands in for each of them in the backward pass.
    Raises      InputError when the network has no ReLU module.
    """
    changed = copy.deepcopy(network)
    paths = [path for path, module in changed.named_modules() if isinstance(module, nn.ReLU)]
    if not paths or "" in paths:
        raise InputError(f"{type(network).__name__} must hold nn.ReLU modules to replace; it has none inside")
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(changed.get_submodule(parent), name, KWinnersTakeAll(share))
    inner = getattr(network, "adaptation", None) or Adaptation()
    stand_ins = {**inner.stand_ins, **dict.fromkeys(paths, functional.relu)}
    changed.__dict__["adaptation"] = Adaptation(stand_ins=stand_ins, draws=inner.draws, detector=inner.detector)
    return changed
