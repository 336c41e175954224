"""Networks that only look robust: each hides one failure that an evaluation must notice."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class SaturatedSoftmax(nn.Module):
    """Return softmax(scale · logits): float32 rounds it to 0 and 1, and most gradients vanish.

    >>> import torch
    >>> plain = nn.Linear(2, 2)
    >>> SaturatedSoftmax(plain)(torch.rand(5, 2)).sum(1).round(decimals=4).tolist()
    [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    def __init__(self, network: nn.Module, *, scale: float = 200.0) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → probabilities (B, C)."""
        return functional.softmax(self.scale * self.network(inputs), dim=1)


class StopGradient(nn.Module):
    """Pass values through unchanged and gradients not at all.

    keep_graph  True: the gradient arrives and is exactly zero; False: the graph ends here.
    """

    def __init__(self, network: nn.Module, *, keep_graph: bool = True) -> None:
        super().__init__()
        self.network, self.keep_graph = network, keep_graph

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → what the network returns."""
        cut = inputs.detach()
        outputs: Tensor = self.network(cut + 0.0 * inputs if self.keep_graph else cut)
        return outputs


class DropoutOn(nn.Module):
    """Drop inputs at random in every mode, so that two calls disagree.

    Randomness  torch's global generator.
    """

    def __init__(self, network: nn.Module, *, probability: float = 0.1) -> None:
        super().__init__()
        self.network, self.probability = network, probability

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → what the network returns."""
        outputs: Tensor = self.network(functional.dropout(inputs, self.probability, training=True))
        return outputs


class BatchStatistics(nn.Module):
    """Keep batch norm in training mode for ever: an example's logits depend on the rest of its batch."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.train(False)

    def train(self, mode: bool = True) -> BatchStatistics:
        """Set the mode of everything but the batch norms, which stay in training mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.train(True)
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → what the network returns."""
        outputs: Tensor = self.network(inputs)
        return outputs
