"""The loop around every attack: which examples it drops, what it counts, and what it returns."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from trustbound.attacks import attack
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.searching import problem as problem_module
from trustbound.attacks.searching.problem import BestSoFar, Problem, State
from trustbound.errors import ModelError, UnsupportedError
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.threat import Access, Misclassify, NormBall, Random


def first_coordinate():
    """Logits (x_0, 0.5): broken where the first coordinate is below one half."""
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
        net.bias.copy_(torch.tensor([0.0, 0.5]))
    return net


def problem_of(inputs, place, seeks="smallest", total=None):
    model = wrap(first_coordinate())
    total = len(inputs) if total is None else total
    best_so_far = BestSoFar(torch.zeros(total, 3), seeks=seeks, keep_closest=True)
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    return Problem(
        oracle=Oracle(model, examples=total),
        best_so_far=best_so_far,
        neighbourhood=NormBall("linf", 1.0).around(inputs, (0.0, 1.0)),
        objective=Misclassify().bind(labels, 2),
        random=Random(0, place),
        search_rows=place,
    )


def test_populations_as_large_as_the_search_are_not_mistaken_for_it():
    """Two of four examples are active; two points each make four rows, which belong to the two alone."""
    inputs = torch.full((2, 3), 0.9)
    problem = problem_of(inputs, torch.tensor([1, 3]), total=4)
    owner = torch.tensor([0, 0, 1, 1])
    theta = inputs[owner].clone()
    theta[:, 0] = torch.tensor([0.6, 0.8, 0.45, 0.3])
    problem.outputs(theta, owner)
    margin = problem.best_so_far.margin
    assert margin[[0, 2]].isinf().all()
    torch.testing.assert_close(margin[[1, 3]], torch.tensor([0.1, -0.2]))
    assert problem.best_so_far.found.tolist() == [False, False, False, True]
    # Of the two successes the smaller change is kept; of all points the one of least margin.
    torch.testing.assert_close(problem.best_so_far.best[3], theta[2])
    torch.testing.assert_close(problem.best_so_far.closest[3], theta[3])
    torch.testing.assert_close(problem.best_so_far.closest[1], theta[0])
    assert problem.oracle.forwards.tolist() == [0, 2, 0, 2]


def test_rows_in_another_order_belong_to_their_owners():
    inputs = torch.tensor([[0.9, 0.0, 0.0], [0.8, 0.0, 0.0]])
    problem = problem_of(inputs, torch.arange(2))
    owner = torch.tensor([1, 0])
    problem.gradient(inputs[owner], "margin", owner=owner)
    torch.testing.assert_close(problem.best_so_far.margin, torch.tensor([0.4, 0.3]))


def test_rows_that_repeat_an_example_keep_its_smallest_margin():
    inputs = torch.full((2, 3), 0.9)
    problem = problem_of(inputs, torch.arange(2))
    thrice = problem.select(torch.arange(2).repeat(3))
    theta = thrice.inputs.clone()
    theta[:, 0] = torch.tensor([0.8, 0.7, 0.6, 0.55, 0.9, 0.9])
    thrice.outputs(theta)
    torch.testing.assert_close(problem.best_so_far.margin, torch.tensor([0.1, 0.05]))


def test_what_lies_outside_is_no_success():
    inputs = torch.full((1, 3), 0.9)
    problem = problem_of(inputs, torch.arange(1))
    outside = torch.tensor([[-0.2, 0.9, 0.9]])
    problem.outputs(outside)
    assert not problem.best_so_far.found.any()


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Lower the first coordinate by a fixed step; the states of the examples are told apart by their inputs."""

    seeks: ClassVar[str] = "any"
    needs: ClassVar[Access] = Access.SCORES

    steps: int = 10
    restarts: int = 1

    def init(self, problem):
        """Start at the clean input."""
        return State(theta=problem.inputs.clone(), done=torch.zeros(len(problem), dtype=torch.bool))

    def step(self, problem, state):
        """One step down, then look."""
        state.theta[:, 0] -= 0.05
        problem.outputs(state.theta)
        return state


def test_finished_examples_leave_no_trace_of_when_they_were_dropped():
    """Alone an example is dropped at once; among many it walks on until a sixteenth is finished."""
    inputs = torch.full((64, 3), 0.99)
    inputs[5, 0] = 0.52
    labels = torch.zeros(64, dtype=torch.int64)
    many = attack(Walk(), first_coordinate(), inputs, labels, "linf:0.4;access=scores")
    alone = attack(Walk(), first_coordinate(), inputs[5:6], labels[:1], "linf:0.4;access=scores")
    assert alone.forwards[0] < many.forwards[5]
    for name in ("adversarial", "success", "size", "margin", "prediction"):
        assert torch.equal(getattr(alone, name)[0], getattr(many, name)[5]), name
    assert many.success.sum() == 1


class Roots(nn.Module):
    """Its gradient is NaN where the second feature is below one half: the slope of a root at zero, times zero."""

    def forward(self, inputs):
        root = torch.where(inputs[:, 1] < 0.5, 0.0 * inputs[:, 1], inputs[:, 1]).sqrt()
        return torch.stack([inputs[:, 0] - 0.5 + 0.0 * root, torch.zeros_like(root)], dim=1)


def test_a_gradient_that_is_nan_is_said_and_is_no_success():
    """A model answers NaN with NaN; that is not an input inside the set."""
    inputs = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.9, 0.5], [0.9, 0.2, 0.5]])
    labels = torch.zeros(3, dtype=torch.int64)
    for name, norm in itertools.product(("pgd", "margin-pgd", "apgd", "fmn"), ("linf", "l2")):
        found = attack(name, Roots(), inputs, labels, f"{norm}:0.2", steps=5)
        assert not found.success.any(), name
        assert found.adversarial.isfinite().all(), name
    found = attack("pgd", Roots(), inputs, labels, "l2:0.2", steps=5)
    assert found.events == ("the gradient is NaN for 2 examples: their search ended with it",)


class Overflows(nn.Module):
    """Right everywhere; no number where the first feature is below one half."""

    def forward(self, inputs):
        first = torch.where(inputs[:, 0] < 0.5, torch.nan, 1.0 + inputs[:, 0])
        return torch.stack([first, torch.zeros_like(first), torch.zeros_like(first)], dim=1)


@pytest.mark.parametrize(
    ("goal", "reaches"), [("misclassify", True), ("reduce-confidence:0.3", True), ("target:1", False)]
)
def test_an_input_that_the_model_does_not_answer_has_lost_its_class_and_reached_no_other(goal, reaches):
    inputs, labels = torch.full((4, 3), 0.6), torch.zeros(4, dtype=torch.int64)
    found = attack("pgd", Overflows(), inputs, labels, f"linf:0.2;goal={goal}", steps=5)
    assert found.success.tolist() == [reaches] * 4
    said = "4 successes are inputs to which the model gives no answer: NaN or infinity"
    assert (said in found.events) == reaches
    assert (found.adversarial[:, 0] < 0.5).all() or not reaches


class Batched(nn.Module):
    """Counts, outside of the library, the rows that each example is asked about; told apart by the last feature."""

    def __init__(self):
        super().__init__()
        self.linear = first_coordinate()
        self.seen = torch.zeros(8, dtype=torch.int64)

    def forward(self, inputs):
        self.seen += torch.bincount((inputs[:, 2] * 8).round().to(torch.int64), minlength=8)
        return self.linear(inputs)


def marked(count=8):
    """Inputs whose last feature is k / 8, which no attack here touches."""
    inputs = torch.full((count, 3), 0.9)
    inputs[:, 2] = torch.arange(count) / 8
    return inputs, torch.zeros(count, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Hungry(Walk):
    """Asks more at each step, more of some examples than of others, and something before the first step."""

    def prepare(self, problem):
        """Two looks, of which nobody was told."""
        problem.outputs(problem.inputs)
        return Rows_(looks=problem.outputs(problem.inputs)[:, 0])

    def init(self, problem):
        """One look at the start."""
        state = Count(theta=problem.inputs.clone(), done=torch.zeros(len(problem), dtype=torch.bool))
        problem.outputs(state.theta)
        return state

    def step(self, problem, state):
        """Change the state in place, then look: k times at step k, and once more for each mark."""
        state.theta[:, 0] -= 0.01
        for _ in range(state.made + 1):
            problem.outputs(state.theta)
        marks = (problem.inputs[:, 2] * 8).round().to(torch.int64)
        owner = torch.arange(len(problem)).repeat_interleave(marks)
        if len(owner):
            crowd = state.theta[owner].clone()
            crowd[:, 1] = torch.linspace(0.5, 1.0, len(owner)) if len(problem) == 1 else 0.7
            problem.outputs(crowd, owner)
        state.theta[:, 1] -= 0.001 * problem.outputs(state.theta)[:, 0]
        state.made += 1
        return state


@dataclass(kw_only=True, eq=False)
class Count(State):
    made: int = 0


@dataclass(kw_only=True, eq=False)
class Rows_(problem_module.Batched):
    looks: torch.Tensor


@pytest.mark.parametrize("stop_early", [True, False])
@pytest.mark.parametrize("restarts", [1, 3])
@pytest.mark.parametrize("draws", [1, 3])
def test_no_example_is_asked_about_more_often_than_its_budget(draws, restarts, stop_early):
    """Steps that grow, crowds of unequal size, looks before the first step: counted outside, by example."""
    inputs, labels = marked()
    threat = "linf:0.8;access=scores"
    for budget in range(2 * draws, 26 * draws, 3 * draws - 1):
        rows = Batched()
        model = wrap(rows, adaptation=Adaptation(draws=draws))
        found = attack(Hungry(restarts=restarts), model, inputs, labels, threat, budget=budget, stop_early=stop_early)
        assert rows.seen.tolist() == found.forwards.tolist()
        assert int(rows.seen.max()) <= budget


def test_who_goes_on_does_not_depend_on_who_cannot_pay():
    """The examples of a batch run out of budget one after another; each comes back as if it had been alone."""
    inputs, labels = marked()
    inputs = (inputs * 1024).round() / 1024
    for budget in range(2, 47, 4):
        threat = "linf:0.8;access=scores"
        many = attack(Hungry(), Batched(), inputs, labels, threat, budget=budget)
        ended = 0
        for place in range(8):
            alone = attack(
                Hungry(),
                Batched(),
                inputs[place : place + 1],
                labels[:1],
                threat,
                budget=budget,
                ids=torch.tensor([place]),
            )
            ended += len(alone.events)
            for name in ("adversarial", "success", "size", "margin", "prediction", "forwards"):
                assert torch.equal(getattr(alone, name)[0], getattr(many, name)[place]), (budget, place, name)
        said = f"the budget of {budget} forwards ended the search of {ended} of 8 examples"
        assert many.events == ((said,) if ended else ())


def test_a_budget_is_used_up():
    """One look at the clean input, steps for all but one of the rest, one look at the end."""
    inputs, labels = marked()
    for budget in (2, 3, 7, 11):
        found = attack(Walk(steps=30), Batched(), inputs, labels, "linf:0.01;access=scores", budget=budget)
        assert found.forwards.tolist() == [budget] * 8


def test_a_restart_without_work_costs_nothing():
    net, inputs = nn.Linear(4, 2), torch.rand(3, 4)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    found = attack("apgd-t", net, inputs, labels, "linf:0.00001", steps=2, targets=9)
    assert (found.forwards == 1 + 1 + 2 + 1).all()


def test_custom_attacks_run_in_the_same_loop():
    inputs = torch.full((3, 3), 0.7)
    found = attack(Walk(steps=6), first_coordinate(), inputs, torch.zeros(3, dtype=torch.int64), "linf:0.3")
    assert found.success.all()
    assert (found.size > 0.2).all()


class Breaks(nn.Module):
    """Answers the first calls; then an exception of the user's own."""

    def __init__(self, error, after=2, backward=False):
        super().__init__()
        self.linear = first_coordinate()
        self.error, self.left, self.backward = error, after, backward

    def forward(self, inputs):
        self.left -= 1
        if self.left < 0:
            if not self.backward:
                raise self.error
            inputs.register_hook(self.refuse)
        return self.linear(inputs)

    def refuse(self, gradient):
        raise self.error


@pytest.mark.parametrize("backward", [False, True])
def test_an_exception_of_the_model_says_who_asked_for_which_examples(backward):
    """Rows 4 to 7 of 8 are the second batch of the first step; the user's own exception is the cause."""
    own = KeyError("no such key\nand more")
    inputs, labels = torch.full((8, 3), 0.9), torch.zeros(8, dtype=torch.int64)
    model = Breaks(own, after=3, backward=backward)
    with pytest.raises(ModelError) as caught:
        attack("pgd", model, inputs, labels, "linf:0.1", batch_size=4)
    assert caught.value.__cause__ is own
    text = str(caught.value)
    for said in ("Breaks must answer", "KeyError", "asked by pgd", "4 examples, 4, 5, 6, 7", "(4, 3)", "batch_size"):
        assert said in text, said
    assert "and more" not in text.replace("\\nand more", "")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), torch.OutOfMemoryError("full"), UnsupportedError("by name")])
def test_what_is_not_the_models_mistake_passes_as_it_is(error):
    inputs, labels = torch.full((8, 3), 0.9), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(type(error)) as caught:
        attack("pgd", Breaks(error), inputs, labels, "linf:0.1", batch_size=4)
    assert caught.value is error
