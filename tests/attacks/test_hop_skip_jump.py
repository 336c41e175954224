"""HopSkipJump: what decisions alone find, against distances known in closed form."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks import attack, build
from trustbound.attacks.decision import hop_skip_jump
from trustbound.attacks.decision.hop_skip_jump import HopSkipJump
from trustbound.audits.planning.pricing import CHECKS, at_most
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.exact import linear_classifier, sphere_classifier

NORMS = ["linf", "l2"]


def seeded(number):
    return torch.Generator().manual_seed(number)


def linear(classes, features=40, count=24, width=1.0):
    """A linear model whose classes share the box; the truth does not depend on the box's width."""
    weight = torch.randn(classes, features, generator=seeded(1))
    exact = linear_classifier(weight, -(weight @ torch.full((features,), 0.5 * width)), box=(0.0, width))
    inputs = width * torch.rand(count, features, generator=seeded(2))
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    return exact, inputs, labels


class Counted(nn.Module):
    """Counts its rows, and adds feature after feature, so that no row is rounded as its neighbours have it."""

    def __init__(self, classes=4, features=9):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, classes, generator=seeded(3)))
        self.rows = 0

    def forward(self, inputs):
        self.rows += len(inputs)
        logits = 0.0
        for feature, weights in enumerate(self.weight):
            logits = logits + (inputs.flatten(1)[:, feature, None] - 0.5) * weights
        return logits


def counted(count=16, shape=(9,)):
    net = Counted()
    inputs = torch.rand(count, *shape, generator=seeded(4))
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    net.rows = 0
    return net, inputs, labels


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("norm", NORMS)
def test_distances_of_linear_models_with_the_box_in_play(norm, classes):
    exact, inputs, labels = linear(classes)
    radius = exact.exact_radius(inputs, labels, norm, inside_box=True)
    found = attack("hopskipjump", exact.model, inputs, labels, f"{norm}:inf;access=decisions")
    assert found.success.all()
    ratio = found.size / radius
    assert ratio.min() >= 1 - 1e-5
    assert ratio.median() <= 1.05
    assert (ratio <= 1.25).double().mean() >= 0.9
    # Of several classes the walk may settle for one that is not the nearest.
    assert ratio.max() <= (1.05 if classes == 2 else 3.0)


@pytest.mark.parametrize("norm", NORMS)
def test_the_unit_of_the_inputs_changes_nothing(norm):
    """Pixels of 0 to 255 are the same question as pixels of 0 to 1."""
    sizes = []
    for width in (1.0, 255.0):
        exact, inputs, labels = linear(3, width=width)
        sizes.append(attack("hopskipjump", exact.model, inputs, labels, f"{norm}:inf", steps=10).size / width)
    torch.testing.assert_close(sizes[0].median(), sizes[1].median(), rtol=0.05, atol=0.0)


def test_a_curved_boundary():
    exact = sphere_classifier(torch.full((10,), 0.5), 0.4)
    inputs = 0.5 + 0.1 * torch.randn(30, 10, generator=seeded(1))
    labels = torch.zeros(30, dtype=torch.int64)
    radius = exact.exact_radius(inputs, labels, "l2")
    found = attack("hopskipjump", exact.model, inputs, labels, "l2:inf;access=decisions", steps=20)
    kept = radius > 0.02
    assert found.success.all()
    ratio = (found.size / radius)[kept]
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= 1.1


@pytest.mark.parametrize("norm", NORMS)
def test_the_estimate_points_along_the_normal(norm):
    """At the boundary of a linear model, towards the goal: the more directions, the closer."""
    exact, inputs, labels = linear(2, features=25, count=30)
    weight = exact.model.module.linear.weight.detach()
    normal = weight[1 - labels] - weight[labels]
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Recorded(HopSkipJump):
        def _normal(self, *task):
            seen.append(HopSkipJump._normal(self, *task))
            return seen[-1]

    for draws in (20, 500):
        attack(Recorded(draws=draws, steps=1), exact.model, inputs, labels, f"{norm}:inf;access=decisions")
    few, many = (nn.functional.cosine_similarity(estimate, normal, dim=1) for estimate in seen)
    assert few.median() > 0.4
    assert many.median() > 0.8
    assert many.min() > 0.5


def published(sample, perturbed, delta, decisions):
    """approximate_gradient of the published code, from its perturbed images on, transcribed."""
    noise = (perturbed - sample) / delta
    fval = 2 * decisions.astype(float)[:, None] - 1.0
    if np.mean(fval) == 1.0:
        return np.mean(noise, axis=0)
    if np.mean(fval) == -1.0:
        return -np.mean(noise, axis=0)
    fval -= np.mean(fval)
    return np.mean(fval * noise, axis=0)


@pytest.mark.parametrize("together", [1000, 7])
@pytest.mark.parametrize("norm", NORMS)
def test_the_estimate_is_the_published_one(norm, together, monkeypatch):
    """Also off the boundary, where most decisions or all of them agree, and when it is drawn in several parts."""
    monkeypatch.setattr(hop_skip_jump, "_TOGETHER", 9 * together)
    net, inputs, labels = counted()
    compared = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Checked(HopSkipJump):
        def _normal(self, problem, point, spread, made):
            for away in (0.0, 0.7, 1.0):
                moved = point + away * (problem.inputs - point)
                asked = []
                hook = net.register_forward_pre_hook(lambda _, given, asked=asked: asked.append(given[0]))
                found = HopSkipJump._normal(self, problem, moved, spread, made)
                hook.remove()
                points = torch.cat([part.reshape(len(moved), -1, 9) for part in asked], dim=1)
                assert points.shape[1] == 30 if made == 0 else 42
                for row, near in enumerate(points):
                    with torch.no_grad():
                        reached = net(near).argmax(1) != problem.objective.labels[row]
                    wanted = published(moved[row].numpy(), near.numpy(), float(spread[row]), reached.numpy())
                    cosine = nn.functional.cosine_similarity(found[row], torch.from_numpy(wanted).float(), dim=0)
                    compared.append((float(cosine), float(reached.float().mean())))
            return HopSkipJump._normal(self, problem, point, spread, made)

    attack(Checked(draws=30, steps=2), net, inputs, labels, f"{norm}:inf;access=decisions", batch_size=1000)
    cosines, shares = zip(*compared, strict=True)
    assert min(cosines) > 0.999
    assert 0.0 in shares
    assert sum(0.0 < share < 0.3 for share in shares) > 5


@pytest.mark.parametrize("norm", NORMS)
def test_same_bits_in_any_batch(norm):
    net, inputs, labels = counted(count=21)
    ids = torch.arange(21) * 3 + 1

    def run(rows, **more):
        chosen = {"ids": ids[rows], "steps": 4, "restarts": 2, "draws": 30, **more}
        return attack("hopskipjump", net, inputs[rows], labels[rows], f"{norm}:inf;access=decisions", **chosen)

    whole = run(torch.arange(21))
    assert whole.success.all()
    order = torch.randperm(21, generator=seeded(5))
    for rows, size in ((order, 1), (order, 7), (order[:7], 64), (order[:1], 64), (order[3:5], 3)):
        found = run(rows, batch_size=size)
        for name in ("adversarial", "success", "size", "margin", "queries"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[rows]), (name, size)


@pytest.mark.parametrize("shape", [(9,), (1, 3, 3)])
def test_queries_are_those_of_the_published_schedule(shape):
    """And as many as a count outside finds, and no more than a plan is priced with."""
    net, inputs, labels = counted(shape=shape)
    params = {"steps": 9, "draws": 40, "max_draws": 100, "tries": 50, "data_tries": 0}
    found = attack("hopskipjump", net, inputs, labels, "l2:inf;access=decisions", **params)
    assert found.success.all()
    assert found.cost.queries == int(found.queries.sum()) == net.rows
    directions = sum(min(int(40 * step**0.5), 100) for step in range(1, 10))
    # The clean input, the last check, one try at least; two bisections, and one in each step beside the jump.
    least = directions + 2 + 1 + 12 * (2 + 9) + 9
    most = directions + 2 + 50 + 12 * (2 + 9) + 9 * 12
    assert least <= int(found.queries.min()) <= int(found.queries.max()) <= most
    priced, backwards = at_most(build("hopskipjump", **params))
    assert backwards == 0
    assert most - 2 + CHECKS <= priced <= most - 2 + CHECKS + 9


def test_a_budget_ends_the_search_and_is_never_exceeded():
    net, inputs, labels = counted()
    whole = attack("hopskipjump", net, inputs, labels, "l2:inf;access=decisions", steps=10)
    found = attack("hopskipjump", net, inputs, labels, "l2:inf;access=decisions", steps=10, budget=500)
    assert int(found.queries.max()) <= 500
    assert int(found.queries.min()) > 400 - 100
    assert any("budget of 500" in event for event in found.events)
    assert found.success.all()
    assert (found.size >= whole.size).all()


def test_seeking_any_stops_at_the_first_success_inside():
    exact, inputs, labels = linear(2)
    radius = exact.exact_radius(inputs, labels, "l2", inside_box=True)
    threat = f"l2:{float(1.3 * radius.median())};access=decisions"
    one, other = (
        attack("hopskipjump", exact.model, inputs, labels, threat, steps=15, seeks=seeks)
        for seeks in ("any", "smallest")
    )
    reachable = radius <= 1.2 * radius.median()
    assert one.success[reachable].all()
    assert torch.equal(one.success, other.success)
    assert not one.success[radius > 1.3 * radius.median() + 1e-4].any()
    assert one.queries[one.success].median() < 0.5 * other.queries.median()
    assert (one.size[one.success] >= other.size[one.success]).all()


def test_a_target_is_reached_or_said_to_be_out_of_reach():
    exact, inputs, labels = linear(4)
    found = attack("hopskipjump", exact.model, inputs, labels, "l2:inf;goal=target:2;access=decisions", steps=10)
    assert found.success.all()
    with torch.no_grad():
        assert (exact.model(found.adversarial).argmax(1) == 2).all()

    class Corner(nn.Module):
        """Class 1 where every one of twelve features is nearly white: no random point is."""

        def forward(self, inputs):
            dark = 1.0 - inputs.amin(dim=1)
            return torch.stack([torch.zeros_like(dark), 0.1 - dark], dim=1)

    white = torch.full((2, 12), 0.8)
    found = attack(
        "hopskipjump", Corner(), white, torch.tensor([0, 1]), "linf:0.5;goal=target:1;access=decisions", tries=30
    )
    assert found.success.tolist() == [False, False]
    assert torch.equal(found.adversarial, white)
    assert found.queries.tolist() == [32, 2]  # of the wanted class: no concern of the goal's
    assert any("none of 30 random points reaches the goal for 1 of 2 examples" in event for event in found.events)


def test_what_decisions_cannot_show_and_numbers_that_are_none_are_refused():
    net, inputs, labels = counted()
    with pytest.raises(UnsupportedError, match="decisions do not show whether reduce-confidence"):
        attack("hopskipjump", net, inputs, labels, "l2:1;goal=reduce-confidence:0.3;access=decisions")
    with pytest.raises(UnsupportedError, match="decisions do not show"):
        attack(build("hopskipjump"), net, inputs, labels, "l2:1;goal=reduce-confidence:0.3;access=decisions")
    for params in ({"gamma": 0.0}, {"gamma": -1.0}, {"draws": 0}, {"max_draws": 0}, {"tries": 0}, {"seeks": "least"}):
        with pytest.raises(InputError, match=f"`{next(iter(params))}` must"):
            attack("hopskipjump", net, inputs, labels, "l2:1", **params)
    assert net.rows == 0


class OneClassForNoise(torch.nn.Module):
    """Class 1 where all coordinates lie within 0.05 of 0.8, class 0 everywhere else: no random point is of class 1."""

    def forward(self, inputs):
        near = 0.05 - (inputs - 0.8).abs().amax(dim=1)
        return torch.stack([torch.zeros_like(near), near], dim=1)


def test_where_noise_is_all_of_one_class_an_input_of_the_data_is_the_start():
    model = tb.wrap(OneClassForNoise())
    inputs = torch.full((3, 12), 0.7) + torch.tensor([[0.0], [-0.1], [-0.2]])
    labels = torch.zeros(3, dtype=torch.int64)

    def found(rows, **more):
        return attack(
            "hopskipjump",
            model,
            inputs[rows],
            labels[rows],
            "linf:inf;access=decisions",
            ids=torch.tensor(rows),
            tries=20,
            steps=6,
            **more,
        )

    alone = found([0, 1, 2])
    assert not alone.success.any()
    assert "were not searched" in alone.events[0]
    donors = torch.full((2, 12), 0.8) - torch.tensor([[0.4], [0.0]])
    together = found([0, 1, 2], donors=donors)
    assert together.success.all()
    assert (together.size / torch.tensor([0.05, 0.15, 0.25], dtype=torch.float64) < 1.02).all()
    assert torch.equal(found([1], donors=donors).adversarial[0], together.adversarial[1])
    with pytest.raises(InputError, match="`donors` must be inputs"):
        found([0], donors=torch.rand(2, 3))


def test_an_audit_starts_from_its_own_examples():
    model = tb.wrap(OneClassForNoise())
    inputs = torch.cat([torch.full((30, 12), 0.7), torch.full((30, 12), 0.8)])
    data = tb.LabelledSet(inputs, torch.tensor([0] * 30 + [1] * 30))
    record = tb.audit(model, data, ["linf:0.06;access=decisions"], budget="quick", curve_examples=0)
    assert record.brackets[0].broken == 60
    assert not [event for event in record.events if "not searched" in event]


class Weighed(nn.Module):
    """Two classes on the sides of w · x = middle, each value added by itself."""

    def __init__(self, weights, middle):
        super().__init__()
        self.weights, self.middle = nn.Parameter(weights), middle

    def forward(self, inputs):
        total = -self.middle
        for column, weight in enumerate(self.weights):
            total = total + inputs[:, column] * weight
        return torch.stack([total, -total], 1)


def table(path, rules, count=12):
    """Columns of ranges from 0.2 to 100, and the threat of 4 % of them under rules."""
    span = torch.tensor([1.0, 100.0, 0.2, 40.0, 1.0])
    inputs = span * (0.3 + 0.4 * torch.rand(count, 5, generator=seeded(5)))
    inputs[:, 3] = inputs[:, 3].round()
    weights = torch.tensor([2.0, 0.03, 6.0, 0.05, 1.5])
    net = Weighed(weights, float((0.5 * span * weights).sum()))
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    box = (np.zeros(5), span.double().numpy())
    data = tb.LabelledSet(inputs, labels, box=box, columns=("a", "b", "c", "whole", "fixed"))
    path.write_text(rules)
    found = tb.Threat.parse("linf:90%;access=decisions").resolved(data, columns=path)
    return tb.wrap(net, box=box), data, found, weights.double()


def test_columns_are_searched_in_units_of_their_radii(tmp_path):
    """Near the true distance |w · x − middle| / Σ |w| width; a column that is immutable is never touched."""
    model, data, threat, weights = table(tmp_path / "rules.toml", "[fixed]\nimmutable = true\n")
    found = attack("hopskipjump", model, data.inputs, data.labels, threat, steps=15)
    wide = torch.tensor(threat.perturbations.widths, dtype=torch.float64)
    assert wide[4] == 0.0
    assert float(wide[1] / wide[0]) > 50
    apart = (data.inputs.double() @ weights - model.module.middle).abs()
    truth = apart / (weights * wide).sum()
    near = truth < 0.3  # the box is not in the way
    assert int(near.sum()) > 6
    assert bool(found.success[near].all())
    assert bool((found.size[near] >= truth[near] * (1 - 1e-5)).all())
    assert bool((found.size[near] <= 1.3 * truth[near] + 1e-3).all())
    assert torch.equal(found.adversarial[:, 4], data.inputs[:, 4])


def test_whole_numbers_stay_whole_without_scores_too(tmp_path):
    rules = "[whole]\ninteger = true\n[fixed]\nimmutable = true\n[c]\nradius = 0.1\n"
    model, data, threat, _ = table(tmp_path / "rules.toml", rules)
    found = attack("hopskipjump", model, data.inputs, data.labels, threat, steps=15)
    assert int(found.success.sum()) > 6
    hit = found.adversarial[found.success]
    assert torch.equal(hit[:, 3], hit[:, 3].round())
    assert torch.equal(found.adversarial[:, 4], data.inputs[:, 4])
    with torch.no_grad():
        assert bool((model(hit).argmax(1) != data.labels[found.success]).all())
    alone = attack("hopskipjump", model, data.inputs[2:3], data.labels[2:3], threat, steps=15)
    assert alone.success.shape == (1,)


def test_one_column_that_may_change_is_the_only_one_that_does(tmp_path):
    held = "".join(f"[{name}]\nimmutable = true\n" for name in ("b", "c", "whole", "fixed"))
    model, data, threat, weights = table(tmp_path / "rules.toml", held)
    found = attack("hopskipjump", model, data.inputs, data.labels, threat, steps=4, tries=50)
    far = (data.inputs.double() @ weights - model.module.middle).abs() / weights[0]
    assert int((far < 0.2).sum()) > 0
    assert bool((far[found.success] < 1.0).all())
    assert torch.equal(found.adversarial[:, 1:], data.inputs[:, 1:])
