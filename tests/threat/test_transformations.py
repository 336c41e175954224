"""Sets with parameters of their own: what they make of pictures, their sizes, and the attacks that search them."""

import dataclasses

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.audits.work_units.verify import verify
from trustbound.errors import InputError, UnsupportedError
from trustbound.threat import Random, Threat
from trustbound.threat.sets.transformations import TransformationNeighbourhood

BOX = (0.0, 1.0)


def pictures(count=5, channels=2, height=6, width=8):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(3))


def around(text, inputs, box=BOX):
    return Threat.parse(text).perturbations.around(inputs, box)


def theta(*rows, count=5):
    return torch.tensor([rows] * count if not isinstance(rows[0], tuple) else list(rows), dtype=torch.float32)


@pytest.mark.parametrize(
    "text", ["rotation:30,translation:3", "brightness:0.25", "rotation:12.5", "translation:2,brightness:0.1"]
)
def test_text_reads_back_and_nothing_changed_is_the_same_picture_to_the_last_bit(text):
    assert str(Threat.parse(text)) == text
    inputs = pictures()
    ours = around(text, inputs)
    assert torch.equal(ours.apply(ours.origin()), inputs)
    assert torch.equal(ours.size(ours.origin()), torch.zeros(5, dtype=torch.float64))
    leaf = ours.origin().requires_grad_(True)
    weights = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(5))
    (slope,) = torch.autograd.grad((ours.apply(leaf) * weights).sum(), leaf)
    assert (slope != 0).all()  # the exact picture hides no gradient


def test_whole_shifts_move_pixels_and_let_the_lowest_value_in():
    inputs = pictures() * 3.0 - 1.0
    ours = around("translation:3", inputs, (-1.0, 2.0))
    moved = ours.apply(theta(2.0, -1.0))
    expected = torch.full_like(inputs, -1.0)
    expected[:, :, :-1, 2:] = inputs[:, :, 1:, :-2]
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_quarter_turns_are_anticlockwise():
    inputs = pictures(height=7, width=7)
    ours = around("rotation:180", inputs)
    torch.testing.assert_close(ours.apply(theta(90.0)), torch.rot90(inputs, 1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.apply(theta(180.0)), torch.rot90(inputs, 2, (2, 3)), atol=1e-4, rtol=0)


def test_parts_are_applied_in_the_order_in_which_they_are_written_and_resampled_once():
    inputs = pictures(height=7, width=7)
    first = around("rotation:90,translation:2", inputs).apply(theta(90.0, 1.0, 0.0))
    turned = torch.rot90(inputs, 1, (2, 3))
    torch.testing.assert_close(first[..., 1:], turned[..., :-1], atol=1e-4, rtol=0)
    other = around("translation:2,rotation:90", inputs).apply(theta(1.0, 0.0, 90.0))
    torch.testing.assert_close(other[:, :, :-1], turned[:, :, 1:], atol=1e-4, rtol=0)
    # Half a pixel there and half a pixel back is no blur, since there is one resampling.
    turned_back = around("translation:2,rotation:180", inputs).apply(theta(0.5, 0.0, 180.0))
    again = torch.rot90(around("translation:2", inputs).apply(theta(0.5, 0.0)), 2, (2, 3))
    torch.testing.assert_close(turned_back, again, atol=1e-4, rtol=0)


def test_brightness_adds_and_clips():
    inputs = pictures()
    assert torch.equal(around("brightness:0.5", inputs).apply(theta(0.25)), (inputs + 0.25).clamp(0, 1))
    flat = torch.rand(4, 9)
    assert torch.equal(around("brightness:1", flat).apply(theta(-0.5, count=4)), (flat - 0.5).clamp(0, 1))


def test_size_membership_and_projection_are_told_from_theta_in_float64():
    ours = around("rotation:30,translation:3", pictures(3))
    points = torch.tensor([[15.0, 0.0, -3.0], [30.1, 0.0, 0.0], [0.0, 4.5, 0.0]])
    torch.testing.assert_close(ours.size(points), torch.tensor([1.0, 30.1 / 30, 1.5]).double(), atol=1e-6, rtol=0)
    assert ours.contains(points).tolist() == [True, False, False]
    assert ours.contains(ours.project(points.clone())).all()
    alone = around("rotation:30", pictures(3))
    assert alone.size(points[:, :1]).tolist() == pytest.approx([15.0, 30.1, 0.0], abs=1e-5)  # degrees
    nothing = around("rotation:0,translation:3", pictures(3))
    assert nothing.contains(torch.tensor([[0.0, 3.0, 3.0], [1e-3, 0.0, 0.0], [0.0, 0.0, 0.0]])).tolist() == [
        True,
        False,
        True,
    ]
    halved = Threat.parse("rotation:30,translation:3").perturbations.resized(0.5)
    assert str(halved) == "rotation:15,translation:1.5"
    near = around("rotation:30,translation:3", pictures(3)).project(
        points.clone(), torch.tensor([0.5, 0.5, 0.5]).double()
    )
    assert near[0].tolist() == [15.0, 0.0, -1.5]


def test_starts_fill_the_set_and_no_neighbour_disturbs_them():
    ours = around("rotation:30,translation:3", pictures(1).expand(400, -1, -1, -1))
    drawn = ours.start(Random(7, torch.arange(400)), 0)
    assert ours.contains(drawn).all()
    assert (drawn.amax(0) > torch.tensor([29.0, 2.9, 2.9])).all()
    assert (drawn.amin(0) < torch.tensor([-29.0, -2.9, -2.9])).all()
    few = around("rotation:30,translation:3", pictures(1)).start(Random(7, torch.tensor([123])), 0)
    assert torch.equal(few[0], drawn[123])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rotation:190", "at most 180 degrees"),
        ("translation:9", "at most 8 pixels"),
        ("brightness:1.5", "at most 1 input units"),
    ],
)
def test_sizes_beyond_which_nothing_new_lies_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        tb.attack("pgd", net(), pictures(), torch.zeros(5, dtype=torch.int64), text)


def test_what_is_no_picture_is_not_turned():
    model = tb.wrap(nn.Linear(4, 2))
    with pytest.raises(InputError, match="rotation moves the pixels of pictures"):
        tb.attack("pgd", model, torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), "rotation:10")


def net(seed=0):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 6, 3))
    return tb.wrap(body, box=BOX)


def labelled(model, count):
    inputs = pictures(count)
    with torch.no_grad():
        return inputs, model(inputs).argmax(1)


SEARCHES = ["bim", "pgd", "apgd", "apgd-t", "margin-pgd", "smooth-pgd", "square", "random", "grid"]


@pytest.mark.parametrize("text", ["rotation:60,translation:3", "brightness:0.5"])
@pytest.mark.parametrize("name", SEARCHES)
def test_every_search_serves_these_sets_at_any_batch_size(name, text):
    model = net()
    inputs, labels = labelled(model, 23)
    runs = [tb.attack(name, model, inputs, labels, text, steps=12, batch_size=size) for size in (23, 7, 1)]
    ours = around(text, inputs)
    for found in runs:
        assert ours.contains(found.theta).all()
        assert torch.equal(ours.apply(found.theta), found.adversarial)
        with torch.no_grad():
            assert torch.equal(model(found.adversarial).argmax(1) != labels, found.success)
        assert torch.equal(found.success, runs[0].success)
    assert runs[0].success.any()


def test_one_apply_per_evaluation(monkeypatch):
    model = net()
    inputs, labels = labelled(model, 11)
    made = []
    plain = TransformationNeighbourhood.apply

    def counted(self, theta, rows=None):
        made.append(len(theta))
        return plain(self, theta, rows)

    monkeypatch.setattr(TransformationNeighbourhood, "apply", counted)
    for name in ("pgd", "apgd", "square", "random", "margin-pgd"):
        made.clear()
        found = tb.attack(name, model, inputs, labels, "rotation:60,translation:3", steps=6, batch_size=4)
        assert sum(made) == found.cost.forwards - len(inputs), name  # the clean pass applies nothing


def test_the_gradient_of_a_parameter_is_its_slope():
    inputs = pictures(3).double()
    ours = around("rotation:60,translation:3", inputs, (0.0, 4.0))
    weights = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(5)).double()

    def value(points):
        return (ours.apply(points) * weights).flatten(1).sum(1)

    at = torch.tensor([[20.0, 0.3, -0.7], [-31.0, 1.2, 0.4], [3.0, -0.1, 2.2]], dtype=torch.float64)
    leaf = at.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(value(leaf).sum(), leaf)
    for column in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[column] = 1e-6
        measured = (value(at + step) - value(at - step)) / 2e-6
        torch.testing.assert_close(slope[:, column], measured, atol=1e-4, rtol=1e-4)


def test_a_grid_holds_its_limits_and_what_a_grid_finds_chance_finds_too():
    model = net()
    inputs, labels = labelled(model, 40)
    found = tb.attack("grid", model, inputs, labels, "rotation:60,translation:3", values=(5, 3, 3), steps=45)
    ours = around("rotation:60,translation:3", inputs)
    assert int(found.forwards.max()) <= 47
    angles = torch.linspace(-60, 60, 5)
    shifts = torch.linspace(-3, 3, 3)
    grid = torch.cartesian_prod(angles, shifts, shifts)
    with torch.no_grad():
        fell = torch.stack([model(ours.apply(point.expand(40, 3))).argmax(1) != labels for point in grid]).any(0)
    assert torch.equal(found.success, fell)
    chance = tb.attack("random", model, inputs, labels, "rotation:60,translation:3", steps=300)
    assert chance.success.sum() >= found.success.sum() - 1


@pytest.mark.parametrize(
    ("values", "words"), [((5, 3), "one number for each of 3"), ((9, 9, 10), "at most `steps` points")]
)
def test_a_grid_that_does_not_fit_is_refused(values, words):
    model = net()
    inputs, labels = labelled(model, 4)
    with pytest.raises(InputError, match=words):
        tb.attack("grid", model, inputs, labels, "rotation:60,translation:3", values=values)


@pytest.mark.parametrize("name", ["fmn", "ddn", "fab", "fab-t", "boundary-walk"])
def test_who_needs_a_norm_says_so_in_a_sentence(name):
    inputs, labels = labelled(net(), 4)
    with pytest.raises(UnsupportedError, match=f"{name} serves l.*; the threat is rotation"):
        tb.attack(name, net(), inputs, labels, "rotation:30")


def test_certifiers_of_norms_say_who_serves_them():
    inputs, labels = labelled(net(), 4)
    with pytest.raises(UnsupportedError, match=r"no proof: crown serves l.*; got rotation. Take parameter-splitting.$"):
        tb.certify("crown", net(), inputs, labels, "rotation:30")


def test_a_witness_is_applied_again_in_float64():
    model = net()
    inputs, labels = labelled(model, 20)
    threat = Threat.parse("rotation:60,translation:3")
    found = tb.attack("random", model, inputs, labels, threat, steps=50)
    ours = threat.perturbations.around(inputs, BOX)
    objective = threat.goal.bind(labels, 3)
    seen = verify(model, double(model), ours, objective, found, 8)
    assert torch.equal(seen.confirmed | seen.tie, found.success)
    exact = double(model)(ours.at(torch.float64).apply(found.theta.double()))
    margin = objective.margin(exact)
    torch.testing.assert_close(seen.margin64[found.success], margin[found.success], atol=1e-12, rtol=0)
    beyond = dataclasses.replace(found, theta=found.theta * 3.0 + 50.0)
    assert not verify(model, double(model), ours, objective, beyond, 8).confirmed.any()


def double(model):
    return tb.wrap(net().module.double(), box=BOX)


def test_an_audit_under_turns_shifts_and_brightness():
    model = net()
    inputs, labels = labelled(model, 60)
    data = tb.LabelledSet(inputs, labels)
    record = tb.audit(model, data, ["rotation:6,translation:0.2", "brightness:0.1;access=decisions"], budget="quick")
    assert all(0.0 < bracket.lower <= bracket.upper for bracket in record.brackets)
    assert {facts.method for facts in record.steps if facts.kind == "proof"} == {"parameter-splitting"}
    assert record.brackets[0].change.startswith("any rotation by up to 6 degrees either way, then translation")
    assert not record.curves
    assert record.exit_code == 0


def test_the_standard_search_misses_no_more_than_a_grid_finds():
    model = net()
    inputs, labels = labelled(model, 60)
    text = "rotation:20,translation:1"
    record = tb.audit(model, tb.LabelledSet(inputs, labels), [text], budget="standard", curve_examples=0)
    ours = around(text, inputs)
    axes = torch.linspace(-20, 20, 9), torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5)
    with torch.no_grad():
        fell = torch.stack(
            [model(ours.apply(point.expand(60, 3))).argmax(1) != labels for point in torch.cartesian_prod(*axes)]
        ).any(0)
    assert record.brackets[0].broken >= int(fell.sum()) - 1
    assert int(fell.sum()) > 10
