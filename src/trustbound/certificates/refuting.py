"""Counterexamples: points inside the threat that the model, as it runs, answers wrongly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trustbound.attacks import build, search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.searching.loop import reached_by
from trustbound.certificates.graph.graph import Graph
from trustbound.errors import UnsupportedError
from trustbound.model.wrapping import wrap
from trustbound.record.box import Box
from trustbound.threat import Random
from trustbound.threat.threat import Threat

#: The attack that looks for a counterexample before anything is split.
ATTACK = "margin-pgd"


class Counterexamples:
    """What breaks the examples of one batch: `found` (B,) bool, and `points` (B, *F), NaN where nothing was found.

    `sizes` (B,) take the place of the threat's ε. A point counts where a fresh forward of the model reaches the
    threat's goal and the point is inside the threat's set, measured in float64. A graph stands for a model that runs
    in float64.

    >>> linear = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(linear.weight)
    >>> inputs, threat = torch.tensor([[0.55, 0.45]]), Threat.parse("linf:0.1")
    >>> near = Counterexamples(linear, inputs, torch.tensor([0]), threat, torch.tensor([0.1]), Box(0.0, 1.0), 2)
    >>> near.replay(0, torch.tensor([[0.5, 0.5], [0.45, 0.55]], dtype=torch.float64)), near.points.argmax(1)
    (True, tensor([1]))
    """

    def __init__(
        self,
        model: nn.Module | Graph,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        box: Box,
        classes: int,
    ) -> None:
        self.model = wrap(_AsModule(model) if isinstance(model, Graph) else model)
        self.inputs = inputs.to(
            self.model.device, torch.float64 if isinstance(model, Graph) else self.model.input_dtype
        )
        self.labels, self.sizes = labels.to(self.model.device), sizes.to(self.model.device)
        self.threat, self.box, self.classes = threat, box, classes
        self.found = torch.zeros(len(inputs), dtype=torch.bool, device=self.inputs.device)
        self.points = torch.full_like(self.inputs, torch.nan)

    def attack(self, rows: Tensor) -> Tensor:
        """Run margin PGD on some examples, and say of which it found a point, (R,) bool."""
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=rows.device)
        inputs, labels = self.inputs[rows], self.labels[rows]
        try:
            with Oracle(self.model, examples=len(rows), task="the search for counterexamples") as oracle:
                result = search(
                    build(ATTACK),
                    oracle,
                    self.threat.perturbations.around(inputs, self.box, self.sizes[rows]),
                    self.threat.goal.bind(labels, self.classes),
                    Random(0, rows),
                )
        except UnsupportedError:  # no gradient reaches the inputs: the parts' own points are left
            return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        self.found[rows] = result.success
        self.points[rows[result.success]] = result.adversarial[result.success]
        return result.success

    def replay(self, row: int, points: Tensor) -> bool:
        """Say whether one of the points (P, *F), put into the set, breaks an example; keep the first that does."""
        inputs = self.inputs[row].expand(len(points), *self.inputs.shape[1:])
        neighbourhood = self.threat.perturbations.around(inputs, self.box, self.sizes[row])
        objective = self.threat.goal.bind(self.labels[row].expand(len(points)), self.classes)
        theta = neighbourhood.project(points.to(inputs.device, inputs.dtype))
        points = neighbourhood.apply(theta)
        with Oracle(self.model, examples=1, task="the replay of counterexamples") as oracle:
            owner = torch.zeros(len(points), dtype=torch.int64, device=inputs.device)
            reached = reached_by(oracle, objective, points, oracle.outputs(points, owner), owner)
        broken = (reached & neighbourhood.contains(theta)).nonzero()[:, 0]
        if not len(broken):
            return False
        self.found[row], self.points[row] = True, points[broken[0]]
        return True


class _AsModule(nn.Module):
    """A graph, run in float64."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self, inputs: Tensor) -> Tensor:
        """The logits."""
        return self.graph(inputs.double())
