"""A smoothed model as whoever attacks it meets it: votes, draws, the gradient behind them, and its own name."""

import math

import pytest
import torch
from tests.truth.test_sandwich import network
from torch import nn

import trustbound as tb
from trustbound.attacks import build, search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.certificates import certify
from trustbound.certificates.methods.smoothing import Smoothing
from trustbound.errors import InputError
from trustbound.model.defences.smoothed import Noise, snapped
from trustbound.record.box import Box
from trustbound.threat import Misclassify, NormBall, Random


def halves(std=0.25, draws=64, kind="gaussian"):
    """Class 0 above 1/2 in the first of three features."""
    linear = nn.Linear(3, 2)
    linear.weight.data = torch.tensor([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]])
    linear.bias.data = torch.tensor([-1.0, 1.0])
    return tb.wrap(linear), tb.smooth(linear, std, noise=kind, draws=draws)


def test_the_share_of_votes_is_the_probability_under_noise():
    _, smoothed = halves()
    inputs = torch.tensor([[0.5 + 0.25 * place, 0.3, 0.3] for place in (-1.0, 0.0, 0.5, 1.0)])
    votes = torch.stack([smoothed(inputs) for _ in range(4000)])
    assert set(votes.unique().tolist()) == {0.0, 1.0}
    truth = torch.special.ndtr(torch.tensor([-1.0, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(votes.mean(0)[:, 0], truth, atol=0.03, rtol=0)
    _, flat = halves(kind="uniform")
    votes = torch.stack([flat(inputs) for _ in range(4000)])
    reach = 0.25 * math.sqrt(3.0)
    truth = (0.5 + torch.tensor([-0.25, 0.0, 0.125, 0.25]) / (2 * reach)).clamp(0, 1)
    torch.testing.assert_close(votes.mean(0)[:, 0], truth, atol=0.03, rtol=0)


def test_an_attack_meets_the_smoothed_model_and_pays_for_its_draws():
    """The distance to the boundary is that of the model inside here; what a look costs is what it draws."""
    inner, smoothed = halves(draws=32)
    inputs, labels = torch.tensor([[0.9, 0.5, 0.5]]).repeat(8, 1), torch.zeros(8, dtype=torch.int64)
    assert smoothed.adaptation.draws == 32
    for epsilon, wanted in ((0.3, 0), (0.5, 8)):
        found = tb.attack("pgd", smoothed, inputs, labels, f"l2:{epsilon}", steps=10, step_size=0.2)
        assert int(found.success.sum()) == wanted
        assert found.cost.forwards % 32 == 0
        assert found.cost.forwards > 0
    assert inner(found.adversarial).argmax(1).tolist() == [1] * 8


def test_the_gradient_is_that_of_the_softmax_at_the_same_draw():
    inner, smoothed = halves()
    inputs = torch.rand(5, 3, requires_grad=True)
    torch.manual_seed(3)
    votes = smoothed(inputs)
    (gradient,) = torch.autograd.grad(votes[:, 0].sum(), inputs)
    assert set(votes.unique().tolist()) == {0.0, 1.0}
    torch.manual_seed(3)
    grain = Noise(noise_std=0.25).grain(Box(0, 1), torch.float32)
    noise = Noise(noise_std=0.25).of(torch.randn(5, 3, dtype=torch.float64), grain)
    points = (snapped(inputs.detach(), grain) + noise).float().requires_grad_(True)
    (wanted,) = torch.autograd.grad(inner(points).softmax(1)[:, 0].sum(), points)
    torch.testing.assert_close(gradient, wanted)
    assert float(gradient.abs().max()) > 0


def test_no_answer_of_the_model_inside_is_no_vote():
    class Silent(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs).masked_fill(inputs[:, :1] > 100, math.nan)

    model = tb.smooth(tb.wrap(Silent(2, 2), box=(0.0, 1000.0)), 0.1)
    votes = model(torch.tensor([[0.5, 0.5], [500.0, 0.5]]))
    assert votes[0].sum() == 1
    assert votes[1].isnan().all()
    wrapped = tb.wrap(Silent(2, 2), box=(0.0, 1000.0))
    found = certify(
        "smoothing", wrapped, torch.tensor([[500.0, 0.5]]), torch.tensor([0]), "l2:0.1", noise_std=0.1, draws=50
    )
    assert (found.selected.tolist(), found.certified.tolist()) == ([-1], [False])


def test_models_with_other_noise_are_other_models():
    linear = nn.Linear(3, 2)
    digests = {tb.smooth(linear, std, noise=kind).sha256 for std in (0.1, 0.2) for kind in ("gaussian", "uniform")}
    assert len(digests) == 4
    assert tb.smooth(linear, 0.1).sha256 in digests
    assert tb.smooth(linear, 0.1).in_float64() is not None


def test_any_classifier_can_be_smoothed_decisions_too():
    model = tb.wrap(lambda rows: (rows[:, 0] > 0.5).astype(int), shows="decisions", classes=2)
    inputs = torch.tensor([[0.9, 0.5], [0.55, 0.5], [0.1, 0.5]])
    found = certify("smoothing", model, inputs, torch.tensor([1, 1, 0]), "l2:0.2", noise_std=0.2, draws=2000)
    assert found.certified.tolist() == [True, False, True]
    assert (found.radius <= (inputs[:, 0].double() - 0.5).abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_type_holds_every_point_of_the_grid(dtype):
    """So the sum of two of them, rounded, is a function of their exact sum."""
    generator = torch.Generator().manual_seed(0)
    for std, high in ((0.25, 1.0), (1e-3, 5.0), (12.0, 255.0), (1e-12, 1e6), (40.0, 1.0)):
        noise, box = Noise(noise_std=std), Box(-high, high)
        grain = noise.grain(box, dtype)
        assert math.frexp(grain)[0] == 0.5
        normal = torch.randn(20_000, dtype=torch.float64, generator=generator)
        normal[:2] = torch.tensor([-9.0, 9.0])  # further out than any that is drawn
        inputs = (2 * torch.rand(20_000, dtype=torch.float64, generator=generator) - 1) * high
        for values in (noise.of(normal, grain), snapped(inputs, grain), snapped(torch.tensor([-high, high]), grain)):
            assert torch.equal(values.to(dtype).double(), values)
            assert torch.equal((values / grain).round(), values / grain)
        assert (snapped(inputs, grain) - inputs).abs().max() <= grain / 2
        assert grain <= max(std * 2**-19, high * (2**-23 if dtype == torch.float32 else 2**-47))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).train(), r"1 \(BatchNorm1d\) normalises by the batch"),
        (
            nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False), nn.Linear(3, 2)).eval(),
            "normalises by the batch",
        ),
        (nn.Linear(3, 2).half(), "needs a model in float32 or float64"),
        (tb.wrap(nn.Linear(3, 1), task="regression:tolerance=1"), "needs a classifier"),
        (tb.wrap(nn.Linear(3, 2), adaptation=tb.Adaptation(draws=3)), "declares draws=3"),
        (tb.wrap(nn.Linear(3, 2), adaptation=tb.Adaptation(detector=lambda inputs: inputs[:, 0] > 0)), "a detector"),
        (tb.smooth(nn.Linear(3, 2), 0.1), "smoothed already"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(model, words):
    with pytest.raises(InputError, match=words):
        tb.smooth(model, 0.1)
    if "already" not in words:
        with pytest.raises((InputError, tb.UnsupportedError)):
            certify("smoothing", model, torch.rand(2, 3), torch.zeros(2, dtype=torch.int64), "l2:1", noise_std=0.1)
    with pytest.raises(InputError, match="`draws` must be a whole number"):
        tb.smooth(nn.Linear(3, 2), 0.1, draws=0)


def test_no_attack_on_the_smoothed_model_contradicts_its_certificate():
    """A small CNN on real digits: at the certified radius itself, the votes never settle on another class."""
    model, inputs, labels = network()
    smoothed = tb.smooth(model, 0.15, draws=16)
    found = certify("smoothing", smoothed, inputs, labels, "l2:0", draws=2000)
    rows = (found.radius > 0.02).nonzero()[:, 0]
    assert len(rows) >= 12
    inputs, labels, radius = inputs[rows], labels[rows], found.radius[rows]
    method = Smoothing(draws=2000, failure_probability=1e-6)

    def answers(attack, size):
        """What the smoothed model says of the points where an attack on it ended."""
        with Oracle(smoothed, examples=len(inputs)) as oracle:
            ended = search(
                build(attack, steps=15),
                oracle,
                NormBall("l2", 1.0).around(inputs, smoothed.box, radius=size),
                Misclassify().bind(labels, 10),
                Random(0, torch.arange(len(inputs))),
            )
        assert ((ended.adversarial - inputs).flatten(1).norm(dim=1) <= size * 1.001 + 1e-5).all()
        return method.predict(smoothed, ended.adversarial)

    for attack in ("pgd", "apgd"):
        assert ((answers(attack, radius) == labels) | (answers(attack, radius) == -1)).all()
        # Four times as far the same attack changes the smoothed class of many: the test can fail.
        beyond = answers(attack, 4 * radius)
        assert int(((beyond != labels) & (beyond != -1)).sum()) >= 5
