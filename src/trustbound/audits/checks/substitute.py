"""Substitute model: a small differentiable copy, trained on the model's decisions alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustbound.audits.checks.context import Before
from trustbound.audits.checks.probe import answers
from trustbound.model.wrapping import Model, wrap
from trustbound.record.cost import Cost


class _Centred(nn.Module):
    low: Tensor
    side: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low)
        self.register_buffer("side", high - low)

    def forward(self, inputs: Tensor) -> Tensor:
        """The box becomes [-0.5, 0.5], flat."""
        return ((inputs - self.low) / self.side - 0.5).flatten(1)


def copy_of(
    context: Before, reach: float, *, width: int = 128, copies: int = 4, steps: int = 200
) -> tuple[Model, Cost]:
    """A two-layer network that answers like the model around the context's examples.

    Parameters
        reach       how far the training points are moved, uniformly in each coordinate, input units.
        copies      moved points per example, beside the example itself.

    Method      decisions of the model are the labels, so that saturated or scaled outputs teach as well as
                others; 200 Adam steps on batches of 256. Smooth activations: its gradient is alive everywhere.
    Cost        copies + 1 forwards of the model per example; the copy's own training is not counted.
    Reference   Papernot et al., Practical black-box attacks against machine learning, 2017 (1602.02697).
    """
    model = context.model
    inputs = context.inputs.to(model.device)
    low, high = (
        torch.as_tensor(limit, dtype=inputs.dtype, device=inputs.device) for limit in (model.box.low, model.box.high)
    )
    generator = context.generator()
    moved = [inputs]
    for _ in range(copies):
        noise = 2 * torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device) - 1
        moved.append(torch.minimum(torch.maximum(inputs + reach * noise, low), high))
    points = torch.cat(moved)
    outputs = []
    cost = Cost()
    for part in points.split(len(inputs)):
        answer, spent = answers(context, part)
        outputs.append(answer)
        cost += spent
    decisions = torch.cat(outputs).argmax(dim=1)
    classes = outputs[0].shape[1]
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(context.key)
        net = nn.Sequential(
            _Centred(low, high), nn.Linear(inputs[0].numel(), width), nn.SiLU(), nn.Linear(width, classes)
        ).to(inputs.device, inputs.dtype)
        optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(0, len(points), (min(256, len(points)),), generator=generator)
            rows = rows.to(points.device)
            cross = nn.functional.cross_entropy(net(points[rows]), decisions[rows])
            optimiser.zero_grad()
            cross.backward()
            optimiser.step()
    return wrap(net.eval(), box=model.box, name=f"copy of {model.name}"), cost
