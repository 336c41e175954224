"""Places of a patch: ranked exactly where the margin is linear, and searched where they count."""

import pytest
import torch
from torch import nn

import trustbound as tb
from trustbound.attacks.gradient.margin_pgd import Run
from trustbound.attacks.suites import suite
from trustbound.threat import Threat

BOX, SIDE = (0.0, 1.0), 2
PLACED, RANDOM = (Run(start="placed"),), (Run(start="random"),)


def pictures(count, channels=2, height=7, width=9, seed=0):
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def places(height, width, side=SIDE):
    return [(row, column) for row in range(height - side + 1) for column in range(width - side + 1)]


def linear(seed=0):
    """Two classes whose margin is linear, with most of its weight in few places."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 7 * 9, 2, bias=False)).requires_grad_(False)
    weight = torch.randn(2, 126, generator=generator) * torch.rand(126, generator=generator) ** 4
    model[1].weight.copy_(weight)
    return model


def least_margins(model, inputs, labels):
    """What is left of a linear margin by the best square at each place, (B, L): exact."""
    rows = model[1].weight[labels] - model[1].weight[1 - labels]
    rows = rows.reshape(inputs.shape)
    fall = torch.where(rows > 0, rows * inputs, rows * (inputs - 1))
    margin = (rows * inputs).flatten(1).sum(1)
    at = [fall[:, :, r : r + SIDE, c : c + SIDE].flatten(1).sum(1) for r, c in places(7, 9)]
    return margin[:, None] - torch.stack(at, 1)


def test_of_a_linear_margin_the_first_place_is_the_best_one_and_decides():
    model, inputs = linear(), pictures(60)
    labels = model(inputs).argmax(1)
    left = least_margins(model, inputs, labels)
    truth = left.amin(1)
    assert 10 < int((truth < 0).sum()) < 50
    asked = {"steps": 1, "seed": 0, "stop_early": False}
    found = tb.attack(
        "margin-pgd", tb.wrap(model, box=BOX), inputs, labels, f"patch:{SIDE}", runs=PLACED, places=1, **asked
    )
    assert torch.equal(found.success, truth < 0)
    torch.testing.assert_close(found.margin, truth, rtol=0, atol=1e-5)
    # A square that stays where it was drawn breaks few of them: this is what the place is worth.
    stayed = tb.attack(
        "margin-pgd", tb.wrap(model, box=BOX), inputs, labels, f"patch:{SIDE}", runs=RANDOM, steps=20, seed=0
    )
    assert int(stayed.success.sum()) < int(found.success.sum()) / 2
    # The place alone, told from θ.
    first = torch.tensor([places(7, 9)[at] for at in left.argmin(1).tolist()]).float()
    assert torch.equal(found.theta[found.success][:, :2], first[found.success])


def curved(seed=3):
    torch.manual_seed(seed)
    body = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 35, 3)).requires_grad_(False)
    return body


def every_place(model, inputs, labels, steps=12):
    """Signed ascents on the margin at every place, from the clean picture and from noise: who falls to one of them."""
    broken = torch.zeros(len(inputs), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    where = places(7, 9)
    mask = torch.zeros(len(where), 1, 1, 7, 9)
    for at, (row, column) in enumerate(where):
        mask[at, ..., row : row + SIDE, column : column + SIDE] = 1.0
    clean, true = inputs.expand(len(where), *inputs.shape), labels.repeat(len(where))
    for noise in (False, True):
        points = torch.where(mask > 0, torch.rand(clean.shape, generator=generator), clean) if noise else clean
        for step in range(steps):
            with torch.enable_grad():
                here = points.clone().requires_grad_(True)
                outputs = model(here.flatten(0, 1))
                own = outputs.gather(1, true[:, None])[:, 0]
                margin = own - outputs.scatter(1, true[:, None], -torch.inf).amax(1)
                (slope,) = torch.autograd.grad(margin.sum(), here)
            broken |= (margin.detach().reshape(len(where), -1) < 0).any(0)
            points = (points - slope.sign() * mask * (1 - step / steps)).clamp(0, 1)
    return broken


def test_the_best_places_break_what_all_places_break():
    model, inputs = curved(), pictures(60, seed=1)
    labels = model(inputs).argmax(1)
    truth = every_place(model, inputs, labels)
    assert 15 < int(truth.sum()) < 55
    asked = {"steps": 10, "seed": 0}
    wrapped = tb.wrap(model, box=BOX)
    found = tb.attack("margin-pgd", wrapped, inputs, labels, f"patch:{SIDE}", runs=PLACED * 4, **asked)
    assert int((found.success & truth).sum()) >= 0.95 * int(truth.sum())
    stayed = tb.attack("margin-pgd", wrapped, inputs, labels, f"patch:{SIDE}", runs=RANDOM * 4, **asked)
    assert int(stayed.success.sum()) < 0.8 * int(truth.sum())
    # At most a forward for each place that is tried, and what the runs and both checks cost.
    assert int(found.forwards.max()) <= 1 + 1 + 64 + 4 * 10 + 1
    assert int(found.backwards.max()) <= 1 + 4 * 10


@pytest.mark.parametrize("name", ["margin-pgd", "smooth-pgd"])
def test_no_place_hangs_on_the_batch_and_all_points_are_inside(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 35, 3)).requires_grad_(False)
    inputs = pictures(7, seed=2)
    labels = model(inputs).argmax(1)
    asked = {"runs": (*PLACED * 3, Run(start="random")), "steps": 6, "seed": 4, "places": 20}
    runs = [
        tb.attack(name, tb.wrap(model, box=BOX), inputs, labels, "patch:3", batch_size=size, **asked) for size in (7, 1)
    ]
    assert torch.equal(runs[0].success, runs[1].success)
    changed = (runs[0].adversarial != inputs).any(1)
    assert bool((changed.flatten(1).sum(1) <= 9).all())
    assert bool((runs[0].size <= 3).all())
    # Flat everywhere: any place is as good, and nothing is found.
    flat = nn.Sequential(nn.Flatten(), nn.Linear(126, 2)).requires_grad_(False)
    flat[1].weight.zero_()
    flat[1].bias.copy_(torch.tensor([1.0, 0.0]))
    nothing = tb.attack("margin-pgd", tb.wrap(flat, box=BOX), inputs, labels * 0, "patch:3", **asked)
    assert not bool(nothing.success.any())


def test_a_placed_run_starts_anywhere_in_a_set_without_places():
    model, inputs = linear(), pictures(12)
    labels = model(inputs).argmax(1)
    runs = [
        tb.attack("margin-pgd", tb.wrap(model, box=BOX), inputs, labels, "linf:0.02", runs=one, steps=4, seed=0)
        for one in (PLACED, RANDOM)
    ]
    assert torch.equal(runs[0].adversarial, runs[1].adversarial)


def test_suites_look_for_places():
    for budget in ("quick", "standard", "thorough"):
        (stage,) = (stage for stage in suite(budget, Threat.parse("patch:4")) if stage.name == "placed")
        assert stage.params["runs"][0].start == "placed"
