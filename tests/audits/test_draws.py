"""Everything that an audit says of a random model, it says of the mean over as many draws as are declared."""

import torch
from torch import nn

from trustbound.attacks import AttackResult
from trustbound.audits.work_units.verify import verify
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.record.cost import Cost
from trustbound.threat import Threat


class Noisy(nn.Module):
    """Logits (x_0 - 0.5 + noise, 0): broken in the mean where the first feature is below one half."""

    def __init__(self, spread):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(float(spread)))
        self.rows = 0

    def forward(self, inputs):
        self.rows += len(inputs)
        first = inputs[:, 0] - 0.5 + self.spread * torch.randn(len(inputs), dtype=inputs.dtype)
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def found_at(points):
    count = len(points)
    nothing = torch.zeros(count, dtype=torch.int64)
    return AttackResult(
        theta=points,
        adversarial=points,
        success=torch.ones(count, dtype=torch.bool),
        size=torch.zeros(count, dtype=torch.float64),
        margin=-torch.ones(count),
        prediction=nothing,
        confidence=torch.ones(count),
        forwards=nothing,
        backwards=nothing,
        queries=nothing,
        cost=Cost(),
    )


def test_a_success_is_confirmed_by_the_mean_of_fresh_draws():
    """At x_0 = 0.8 one draw of five fails, the mean never does; at 0.2 it is the other way round."""
    noisy = Noisy(0.35)
    model = wrap(noisy, adaptation=Adaptation(draws=50))
    double = model.in_float64()
    points = torch.cat([torch.full((200, 2), 0.8), torch.full((200, 2), 0.2)])
    threat = Threat.parse("linf:0.9")
    objective = threat.goal.bind(torch.zeros(400, dtype=torch.int64), 2)
    checked = verify(
        model, double, threat.perturbations.around(points, model.box), objective, found_at(points), 64, key=3
    )
    assert checked.confirmed.tolist() == [False] * 200 + [True] * 200
    assert noisy.rows == 400 * 50
    assert double.module.rows == 400 * 50
    assert checked.cost.forwards == int(checked.forwards.sum()) == 800 * 50
    other = verify(
        model, double, threat.perturbations.around(points, model.box), objective, found_at(points), 64, key=4
    )
    assert not torch.equal(other.margin64, checked.margin64)  # fresh draws


def test_verification_leaves_the_global_randomness_alone():
    model = wrap(Noisy(0.35), adaptation=Adaptation(draws=3))
    points = torch.full((4, 2), 0.2)
    threat = Threat.parse("linf:0.9")
    objective = threat.goal.bind(torch.zeros(4, dtype=torch.int64), 2)
    before = torch.get_rng_state()
    verify(model, None, threat.perturbations.around(points, model.box), objective, found_at(points), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.module.spread.requires_grad
