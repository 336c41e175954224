"""Random search: its schedule, windows and patterns."""

import math

import pytest
import torch
from torch import nn

from trustbound.attacks import attack, build, search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.score.mass_exchange import carried, filled, rearranged, turned
from trustbound.attacks.score.square import share_at
from trustbound.attacks.score.square_windows import grid, layout, pattern, pyramid, tiled, window_size, windows
from trustbound.model.exact import linear_classifier
from trustbound.threat import NormBall, Random, Threat


def published(step, queries, first):
    """p_selection of the published code, transcribed."""
    step = int(step / queries * 10000)
    for low, high, part in (
        (10, 50, 2), (50, 200, 4), (200, 500, 8), (500, 1000, 16), (1000, 2000, 32),
        (2000, 4000, 64), (4000, 6000, 128), (6000, 8000, 256), (8000, 10**9, 512),
    ):  # fmt: skip
        if low < step <= high:
            return first / part
    return first


@pytest.mark.parametrize("queries", [100, 5000, 10000, 7])
def test_the_share_falls_as_published(queries):
    for step in range(queries):
        assert share_at(step, queries, 0.8) == published(step, queries, 0.8)


def test_windows_cover_every_place_and_stay_inside():
    numbers = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    numbers[0], numbers[1] = 0.0, 1.0 - 2**-53
    place = windows((5, 7), (2, 3), numbers)
    assert place.shape == (4000, 6)
    rows, columns = place // 7, place % 7
    assert rows.min() == 0
    assert rows.max() == 4
    assert columns.max() == 6
    assert (rows[:, 3:] == rows[:, :1] + 1).all()
    assert (columns[:, :3] == columns[:, :1] + torch.arange(3)).all()
    assert len(place[:, 0].unique()) == 4 * 5


def test_layouts_of_pictures_and_tables():
    assert layout((9, 20)) == (1, 1, 20)
    assert layout((9, 4, 6)) == (1, 4, 6)
    assert layout((9, 3, 4, 6)) == (3, 4, 6)
    assert layout((9, 2, 3, 4, 6)) == (6, 4, 6)
    assert layout((9, 3, 7, 1)) == (3, 1, 7)
    assert layout((9, 5, 1, 1)) == (1, 1, 5)
    assert layout((9, 2, 2, 1, 1)) == (1, 1, 4)
    for shape in ((9, 20), (9, 1), (9, 2), (9, 3, 4, 6), (9, 3, 32, 32), (9, 1, 1, 9), (9, 1, 3, 3)):
        channels, height, width = layout(shape)
        for share in (1.0, 0.8, 0.05, 1e-6):
            for odd in (False, True):
                tall, wide = window_size(height, width, share, odd=odd)
                assert 1 <= tall <= height
                assert 1 <= wide <= width
        _side, rows, columns = grid(shape)
        change = tiled(
            torch.Size(shape),
            torch.ones(9, channels, rows, columns, dtype=torch.float64),
            torch.zeros(9, rows, columns, dtype=torch.bool),
        )
        assert change.shape == (9, channels, height * width)
        assert (change != 0).any()


def test_patterns_are_the_published_ones():
    # eta(3) by hand: one row above, two rows below of opposite sign, each a pyramid, equal lengths.
    low = pyramid(1, 3)
    assert low.argmax() == 1
    torch.testing.assert_close(low[0, 0] / low[0, 1], torch.tensor(0.2, dtype=torch.float64))
    for side in (1, 3, 5, 7, 11):
        one = pattern(side, side)
        assert one.shape == (side, side)
        torch.testing.assert_close(one.norm(), torch.tensor(1.0, dtype=torch.float64))
        if side > 1:
            assert (one[: side // 2] > 0).all()
            assert (one[side // 2 :] < 0).all()
            halves = one[: side // 2].square().sum(), one[side // 2 :].square().sum()
            torch.testing.assert_close(*halves)
    assert pattern(1, 5).shape == (1, 5)
    # For l1, rings weigh 1, 1/16 …: 1 + 1/16 in the middle of a row of three, 1/16 beside it.
    steep = pyramid(1, 3, power=1)
    torch.testing.assert_close(steep[0, 0] / steep[0, 1], torch.tensor(1 / 17, dtype=torch.float64))
    torch.testing.assert_close(pattern(5, 5, power=1).abs().sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("power", [2, 1])
@pytest.mark.parametrize("channels", [1, 3])
def test_rearranging_keeps_each_channels_length_and_empties_the_other_window(channels, power):
    generator = torch.Generator().manual_seed(1)
    change = torch.randn(6, channels, 25, generator=generator, dtype=torch.float64)
    reach = change.flatten(1).norm(p=power, dim=1)
    here = windows((5, 5), (2, 2), torch.zeros(6, 2, dtype=torch.float64))
    there = windows((5, 5), (2, 2), torch.full((6, 2), 0.99, dtype=torch.float64))
    fresh = torch.randn(6, channels, 4, generator=generator, dtype=torch.float64)
    moved = rearranged(change, here, there, fresh, reach, power)
    torch.testing.assert_close(moved.norm(p=power, dim=2), change.norm(p=power, dim=2))
    there = there[:, None].expand(-1, channels, -1)
    assert (moved.gather(2, there) == 0).all()
    elsewhere = torch.ones(25, dtype=torch.bool)
    elsewhere[here[0]] = elsewhere[there[0, 0]] = False
    assert torch.equal(moved[..., elsewhere], change[..., elsewhere])
    # What is unused goes to the window.
    grown = rearranged(change, here, there[:, 0], fresh, 2 * reach, power)
    torch.testing.assert_close(grown.flatten(1).norm(p=power, dim=1), 2 * reach)


@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 6, 6), (12,), (4, 5)])
@pytest.mark.parametrize("norm", ["linf:0.1", "l2:0.5", "l1:1.5"])
def test_any_shape_is_served_and_candidates_are_local(shape, norm):
    torch.manual_seed(0)
    features = math.prod(shape)
    net = nn.Sequential(nn.Flatten(), nn.Linear(features, 3))
    inputs = 0.5 + 0.1 * torch.rand(8, *shape)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    points = []
    found = attack(
        "square", net, inputs, labels, norm, steps=60, stop_early=False, watch=lambda s, p, t: points.append(t.theta)
    )
    assert (found.queries == 0).all()  # gradients were allowed: forwards are no queries
    assert (found.forwards == 62).all()
    margins = []
    with torch.no_grad():
        for point in points:
            logits = net(point)
            own = logits.gather(1, labels[:, None])[:, 0]
            margins.append(own - logits.scatter(1, labels[:, None], -math.inf).amax(1))
    steps = torch.stack(margins)
    assert (steps.diff(dim=0) <= 1e-6).all()
    assert (steps[-1] < steps[0]).float().mean() > 0.8
    if norm.startswith("linf"):
        moved = (points[-1] - inputs).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=0, atol=1e-6)


def test_queries_are_counted_where_scores_are_all_there_is():
    net = nn.Linear(6, 3)
    inputs = torch.rand(4, 6)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    found = attack("square", net, inputs, labels, "linf:0.0001;access=scores", steps=25)
    assert torch.equal(found.queries, found.forwards)
    assert found.cost.queries == 4 * 27
    assert found.cost.backwards == 0


def test_no_query_is_wasted_on_what_is_there_already():
    """One channel, two ends: every candidate of the linf search differs from the point it starts from."""
    inputs = torch.full((16, 5), 0.5)
    seen = []

    class Recorder(nn.Module):
        def forward(self, points):
            seen.append(points.clone())
            return torch.stack([torch.ones(len(points)), torch.zeros(len(points))], dim=1)

    attack("square", Recorder(), inputs, torch.zeros(16, dtype=torch.int64), "linf:0.1", steps=30)
    start = seen[1]  # equal losses are never accepted, so that every candidate starts here
    assert all((candidate != start).flatten(1).any(1).all() for candidate in seen[2:-1])


def test_a_turning_pair_keeps_the_length_and_every_other_coordinate():
    generator = torch.Generator().manual_seed(2)
    change = torch.randn(6, 2, 9, generator=generator, dtype=torch.float64)
    reach = change.flatten(1).norm(dim=1)
    places = torch.tensor([[0, 17], [3, 4], [8, 9], [17, 0], [1, 2], [5, 13]])
    angle = torch.tensor([0.1, -0.7, 3.0, -3.0, 1.5, 0.0], dtype=torch.float64)
    moved = turned(change, places, angle, reach)
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), reach)
    elsewhere = torch.ones(6, 18, dtype=torch.bool).scatter(1, places, False)
    assert torch.equal(moved.flatten(1)[elsewhere], change.flatten(1)[elsewhere])
    before, after = (one.flatten(1).gather(1, places) for one in (change, moved))
    cosine = (before * after).sum(1) / (before.norm(dim=1) * after.norm(dim=1))
    torch.testing.assert_close(cosine, angle.cos())
    torch.testing.assert_close(moved[5], change[5])
    # What the box's clipping had left unused goes to the pair.
    grown = turned(change, places, angle, 2 * reach)
    torch.testing.assert_close(grown.flatten(1).norm(dim=1), 2 * reach)


def test_what_one_coordinate_holds_is_carried_to_another():
    generator = torch.Generator().manual_seed(3)
    change = torch.randn(200, 2, 9, generator=generator, dtype=torch.float64)
    change[:, 0, :4] = 0.0
    down, up = torch.full((200, 18), 30.0, dtype=torch.float64), torch.full((200, 18), 30.0, dtype=torch.float64)
    down[:, ::2] = up[:, 1::2] = 0.0  # even coordinates only rise, odd ones only fall
    reach = change.abs().sum(dim=(1, 2)) + 0.5
    numbers = torch.rand(200, 3, generator=generator, dtype=torch.float64)
    moved = carried(change, numbers, down, up, reach).flatten(1)
    torch.testing.assert_close(moved.abs().sum(dim=1), reach)
    differ = moved != change.flatten(1)
    assert (differ.sum(dim=1) <= 2).all()
    target = (numbers[:, 1:2] * 18).long()
    assert (torch.where(target % 2 == 0, moved.gather(1, target), -moved.gather(1, target)) > 0).all()
    # A place without mass never gives any; with `up` at a hair, what cannot be placed is left.
    assert not differ[:, :4].any(dim=1).logical_and(target[:, 0] >= 4).any()
    assert (carried(change, numbers, down, up / 1e6, reach).flatten(1).gather(1, target) <= 3e-5).all()


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1)])
def test_filling_spends_the_whole_length_inside_the_box(norm, power):
    """Against bisection of the scale; the direction is kept and the box held."""
    generator = torch.Generator().manual_seed(4)
    change = torch.randn(50, 40, generator=generator, dtype=torch.float64) ** 3
    down, up = (torch.rand(50, 40, generator=generator, dtype=torch.float64) * 0.3 for _ in range(2))
    down[:, ::3] = 0.0
    limit = torch.where(change > 0, up, down)
    reach = 0.7 * limit.norm(p=power, dim=1) * torch.rand(50, generator=generator, dtype=torch.float64)
    full = filled(change, down, up, reach, power)
    low, high = torch.zeros(50, dtype=torch.float64), torch.full((50,), 1e6, dtype=torch.float64)
    for _ in range(200):
        middle = (low + high) / 2
        short = torch.minimum(change.abs() * middle[:, None], limit).norm(p=power, dim=1) < reach
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    wanted = change.sign() * torch.minimum(change.abs() * low[:, None], limit)
    torch.testing.assert_close(full, wanted, rtol=1e-3, atol=1e-4)
    assert (full.norm(p=power, dim=1) <= reach * (1 + 1e-12)).all()
    # No change, no room, no radius: nothing, and nothing that is not a number.
    nothing = torch.zeros(1, 3, dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    for case in ((nothing, nothing + 1, one), (nothing + 1, nothing, one), (nothing + 1, nothing + 1, 0 * one)):
        moved, room, radius = case
        assert torch.equal(filled(moved, room, room, radius, power), nothing)


@pytest.mark.parametrize("threat", ["l2:1.5", "l1:6"])
def test_every_candidate_spends_the_radius_on_a_black_ground(threat):
    """Pictures of zeros and ones: half of each pattern cannot be painted, and the rest takes over its length."""
    inputs = (torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(5)) < 0.2).float()
    norm, epsilon = threat.split(":")
    seen = []

    class Recorder(nn.Module):
        def forward(self, points):
            seen.append(points.clone())
            return torch.stack([points.flatten(1).sum(1), torch.full((len(points),), -1.0)], dim=1)

    attack("square", Recorder(), inputs, torch.zeros(8, dtype=torch.int64), threat, steps=60)
    assert len(seen) == 62
    for candidate in seen[1:]:
        size = (candidate.double() - inputs.double()).flatten(1).norm(p=int(norm[1]), dim=1)
        assert (size <= float(epsilon) * (1 + 1e-7)).all()
        assert size.median() >= 0.999 * float(epsilon)


def broken_share(shape, norm, factor=1.3, count=24, queries=1000):
    """Of linear examples under `factor` times their own true radius, the share that random search breaks."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, math.prod(shape), generator=generator)
    exact = linear_classifier(weight, 0.1 * torch.randn(3, generator=generator))
    inputs = 0.4 + 0.2 * torch.rand(count, *shape, generator=generator)
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    radius = exact.exact_radius(inputs, labels, norm, inside_box=True)
    clear = radius.isfinite() & (radius > 1e-3)
    inputs, labels, radius = inputs[clear], labels[clear], radius[clear]
    threat = Threat.parse(f"{norm}:1;access=scores")
    with Oracle(exact.model, examples=len(inputs), access=threat.access) as oracle:
        found = search(
            build("square", steps=queries),
            oracle,
            NormBall(norm, 1.0).around(inputs, exact.model.box, radius=factor * radius),
            threat.goal.bind(labels, 3),
            Random(1, torch.arange(len(inputs))),
        )
    assert int(found.queries.max()) <= queries + 2
    assert (found.size[found.success] >= radius[found.success] * (1 - 1e-5)).all()
    return float(found.success.float().mean())


@pytest.mark.parametrize(
    "shape",
    [(2,), (20,), (97,), (3, 1, 17), (3, 13, 1), (3, 1, 1), (5, 1, 1), (1, 7, 11), (4, 2, 2), (1, 8, 8), (4, 5)],
)
def test_l2_succeeds_on_every_shape_where_linf_does(shape):
    """Nothing but patterns of three by three: at 1.3 times the radius none of 8 x 8 pixels, one in four of 7 x 11."""
    assert broken_share(shape, "l2") >= broken_share(shape, "linf")


@pytest.mark.parametrize("shape", [(2,), (20,), (3, 1, 17), (3, 13, 1), (5, 1, 1), (1, 7, 11), (4, 2, 2), (1, 8, 8)])
def test_l1_succeeds_on_every_shape(shape):
    """One coordinate is best, and no pattern of three is one: pairs must find it."""
    assert broken_share(shape, "l1") >= 0.75


@pytest.mark.parametrize("key", [1, 2])
def test_l2_is_level_with_the_original_on_black_and_white_pictures(key):
    """Under twice their true radius, 200 queries: the original code (pyautoattack 0.2.0, share 0.8) breaks 6 of 32."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(4, 1, 5, 5, generator=generator)
    weight = nn.functional.interpolate(coarse, size=(20, 20), mode="bilinear").flatten(1)
    exact = linear_classifier(weight, torch.zeros(4))
    inputs = (torch.rand(32, 1, 20, 20, generator=generator) < 0.25).float()
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    radius = exact.exact_radius(inputs, labels, "l2", inside_box=True)
    threat = Threat.parse("l2:1;access=scores")
    with Oracle(exact.model, examples=32, access=threat.access) as oracle:
        found = search(
            build("square", steps=200),
            oracle,
            NormBall("l2", 1.0).around(inputs, exact.model.box, radius=2 * radius),
            threat.goal.bind(labels, 4),
            Random(key, torch.arange(32)),
        )
    assert found.success.sum() >= 6
