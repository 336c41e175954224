"""Randomised smoothing where p and the radius are exact; its draws, its abstention, and whom it speaks of."""

import math

import pytest
import torch
from scipy.stats import binom, norm
from torch import nn

import trustbound as tb
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.certificates import certify
from trustbound.certificates.methods import smoothing, votes
from trustbound.certificates.methods.smoothing import Smoothing, certified_radius
from trustbound.certificates.methods.votes import counted
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import InputError, UnsupportedError
from trustbound.model.defences.smoothed import Noise
from trustbound.record.binomial import binomial_lower

STD, DRAWS = 0.5, 50
FAR = 64.0


class Coordinates(nn.Module):
    """Example k stands at 64 + its margin in coordinate k, at 0 elsewhere: class 0 where that coordinate is above 64.

    In the direction of its coordinate this is a linear classifier, so that p and the radius are exact; and as each
    example looks at a coordinate of its own, the examples of one call repeat the method independently.
    """

    def __init__(self):
        super().__init__()
        self.edge = nn.Parameter(torch.tensor(FAR, dtype=torch.float64))

    def forward(self, inputs):
        over = inputs.amax(1) - self.edge
        return torch.stack([over, -over], 1)


def standing(margins):
    inputs = torch.diag(FAR + torch.as_tensor(margins, dtype=torch.float64))
    return tb.wrap(Coordinates(), box=(0.0, 80.0)), inputs, torch.zeros(len(inputs), dtype=torch.int64)


def exact(kind, margin):
    """The probability of class 0 under noise."""
    reach = math.sqrt(3.0) * STD
    return float(norm.cdf(margin / STD)) if kind == "gaussian" else min(1.0, (margin + reach) / (2 * reach))


def sharp(kind, wins, chance):
    """The margin at which the limit of so many wins is just above the truth: false certificates are likeliest there."""
    limit = binomial_lower(wins, DRAWS, chance) * (1 - 1e-6)
    return float(norm.ppf(limit)) * STD if kind == "gaussian" else (2 * limit - 1) * math.sqrt(3.0) * STD


#: How rarely a fair coin wins 31 times of 50: with this chance allowed, the limit of 31 wins lies just above 1/2.
CHANCE = float(binom.sf(30, DRAWS, 0.5)) * (1 + 1e-9)
NORM = {"gaussian": "l2", "uniform": "l1"}


def repeats(kind, calls=250, width=40, **params):
    """False certificates of class 0 and trials in which it was selected, for each of four margins, and their size."""
    wins = (31, 36, 42, 49)
    margins = [0.0 if place % 4 == 0 else sharp(kind, wins[place % 4], CHANCE) for place in range(width)]
    model, inputs, labels = standing(margins)
    method = Smoothing(
        noise_std=STD, noise=kind, draws=DRAWS, selection_draws=DRAWS, failure_probability=CHANCE, family=1, **params
    )
    generator, truth = torch.Generator().manual_seed(5), torch.tensor(margins, dtype=torch.float64)
    false = torch.zeros(calls, width, dtype=torch.bool)
    tried = torch.zeros(calls, width, dtype=torch.bool)
    for call in range(calls):
        found = certify(method, model, inputs, labels, f"{NORM[kind]}:0", generator=generator, batch_size=2000)
        false[call], tried[call] = found.radius > truth, found.selected == 0
    return [(int((false & tried)[:, k::4].sum()), int(tried[:, k::4].sum())) for k in range(4)]


def too_many(false, trials):
    """Whether so many are beyond chance: as rare as one in ten thousand."""
    return binom.sf(false - 1, trials, CHANCE) < 1e-4


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_false_certificates_are_as_rare_as_stated_and_no_rarer(kind):
    """10,000 repeats of CERTIFY, draws to certificate, at margins where a false one is as likely as it may be."""
    found = repeats(kind)
    assert sum(trials for _, trials in found) > 8_700
    assert not any(too_many(false, trials) for false, trials in found), found
    # At the edge of the coin and of each limit a false certificate has the stated chance: none is given away.
    assert all(binom.cdf(false, trials, CHANCE) > 1e-4 for false, trials in found), found


def test_draws_that_selected_the_class_may_not_estimate_it(monkeypatch):
    """Planted: the class with more votes, and the limit from the same votes. It fails twice as often at p = 1/2."""

    def reused(*given, stream, **rest):
        return counted(*given, stream="the-same", **rest)

    monkeypatch.setattr(smoothing, "counted", reused)
    assert too_many(*repeats("gaussian")[0])


@pytest.mark.parametrize(
    "limit",
    [
        # The upper end of the interval, the estimate itself, and a limit that fails twice as often.
        lambda wins, draws, chance: 1 - binomial_lower(draws - wins, draws, chance),
        lambda wins, draws, chance: wins / draws,
        lambda wins, draws, chance: binomial_lower(wins, draws, 2 * chance),
    ],
)
def test_limits_that_are_too_high_are_seen(limit, monkeypatch):
    monkeypatch.setattr(smoothing, "binomial_lower", limit)
    assert any(too_many(*found) for found in repeats("gaussian", calls=120))


def test_a_limit_that_gives_half_of_the_chance_away_is_seen(monkeypatch):
    """Planted: the lower end of a two-sided interval."""
    monkeypatch.setattr(
        smoothing, "binomial_lower", lambda wins, draws, chance: binomial_lower(wins, draws, chance / 2)
    )
    assert any(binom.cdf(false, trials, CHANCE) < 1e-4 for false, trials in repeats("gaussian", calls=120))


def test_who_does_not_abstain_is_seen(monkeypatch):
    """Planted: a certificate of radius 0 for whoever was selected."""
    monkeypatch.setattr(smoothing, "certified_radius", lambda noise, chance: certified_radius(noise, chance) + 1e-4)
    assert too_many(*repeats("gaussian", calls=120)[0])


def test_several_looks_fail_no_more_often_and_would_if_each_had_the_whole_chance(monkeypatch):
    """Of 12, 25 and 50 draws: whatever is seen at the first, all limits hold together."""
    assert not any(too_many(*found) for found in repeats("gaussian", looks=3))
    # Planted: each look with the whole failure probability.
    monkeypatch.setattr(
        smoothing, "binomial_lower", lambda wins, draws, chance: binomial_lower(wins, draws, 3 * chance)
    )
    assert any(too_many(*found) for found in repeats("gaussian", looks=3))


def test_several_looks_spend_less_on_what_is_easily_certified():
    model, inputs, labels = standing([0.05, 0.47, 1.5, -1.0])
    given = {"noise_std": STD, "draws": 4000, "looks": 5, "failure_probability": 0.01}
    found = certify("smoothing", model, inputs, labels, "l2:0.4", **given)
    once = certify("smoothing", model, inputs, labels, "l2:0.4", **{**given, "looks": 1})
    assert found.certified.tolist() == once.certified.tolist() == [False, True, True, False]
    assert found.draws.tolist()[0] == 4000
    assert found.draws[1] > found.draws[2]
    assert found.draws[2] == 250
    assert found.draws[3] == 0
    assert found.cost.forwards == 400 + int(found.draws.sum())
    assert (found.radius[1:3] > 0.4).all()
    assert once.draws.tolist() == [4000, 4000, 4000, 0]


@pytest.mark.parametrize("draws", [1, 10, 50])
@pytest.mark.parametrize("chance", [0.001, 0.05])
def test_the_limit_covers_every_probability_and_is_sharp(draws, chance):
    """Summed over all counts exactly: P(limit > p) ≤ chance for every p, and just below each limit it is the chance."""
    limits = torch.tensor([binomial_lower(wins, draws, chance) for wins in range(draws + 1)], dtype=torch.float64)
    assert (limits.diff() > 0).all()
    for p in torch.cat([torch.linspace(0, 1, 201, dtype=torch.float64), limits[1:], limits[1:] - 1e-9]).tolist():
        above = int((limits <= p).sum())  # so many counts give a limit that holds
        assert binom.sf(above - 1, draws, p) <= chance * (1 + 1e-9)
    for wins in range(1, draws + 1):
        assert binom.sf(wins - 1, draws, float(limits[wins])) == pytest.approx(chance, rel=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_radii_come_close_to_the_exact_ones_and_never_reach_them(kind):
    margins = [0.1, 0.3, 0.5, 0.8]
    model, inputs, labels = standing(margins)
    given = {"noise_std": STD, "noise": kind, "draws": 20_000}
    found = certify("smoothing", model, inputs, labels, f"{NORM[kind]}:0.29", **given)
    truth = torch.tensor(margins, dtype=torch.float64)
    assert found.selected.tolist() == [0, 0, 0, 0]
    assert (found.radius < truth).all()
    assert (found.radius > truth - 0.04).all()
    assert found.certified.tolist() == [False, False, True, True]
    # The margin bounds P(0) − P(1) at the distance of the threat, and is a number per example.
    there = torch.tensor([2 * exact(kind, margin - 0.29) - 1 for margin in margins])
    assert (found.margin < there).all()
    assert (found.margin > there - 0.06).all()
    assert torch.equal(found.margin > 0, found.certified)
    each = certify("smoothing", model, inputs, labels, f"{NORM[kind]}:0.29", sizes=truth * 0.9, **given)
    assert each.certified.tolist() == (found.radius > truth * 0.9).tolist()
    assert not found.lost.any()
    # The worst point within the radius is of the same class to the smoothed model.
    worst = inputs - torch.diag(found.radius)
    assert all(exact(kind, float(over)) > 0.5 for over in worst.amax(1) - FAR)
    sure = Smoothing(noise_std=STD, noise=kind, draws=20_000).predict(model, inputs - torch.diag(found.radius * 0.9))
    assert sure.tolist() == [0, 0, 0, 0]


def test_abstention_and_other_classes_are_not_certified():
    model, inputs, labels = standing([0.0, 1.0, -1.0])
    found = certify("smoothing", model, inputs, labels, "l2:0", noise_std=STD, draws=100, failure_probability=0.001)
    assert found.certified.tolist() == [False, True, False]
    assert found.selected[2] == 1
    assert found.abstained.tolist() == [found.selected[0] == 0, False, False]
    assert found.radius[0] == found.radius[2] == 0
    # Where the votes chose another class nothing more is asked.
    assert found.cost.forwards == 3 * 100 + 100 * int((found.selected == 0).sum())
    assert found.cost.purposes["proof"].scores == found.cost.forwards
    seen = Smoothing(noise_std=STD, draws=200, failure_probability=0.001).predict(model, inputs)
    assert seen.tolist() == [-1, 0, 1]


def test_predictions_are_wrong_as_rarely_as_stated():
    """At p = 1/2 either answer counts as wrong: abstention is due in all but the stated share."""
    model, inputs, _ = standing([0.0] * 40)
    generator, wrong = torch.Generator().manual_seed(0), 0
    method = Smoothing(noise_std=STD, draws=DRAWS, failure_probability=2 * CHANCE)
    for _ in range(100):
        wrong += int((method.predict(model, inputs, generator=generator, batch_size=2000) >= 0).sum())
    assert binom.sf(wrong - 1, 4000, 2 * CHANCE) > 1e-4
    assert binom.cdf(wrong, 4000, 2 * CHANCE) > 1e-4


def test_all_statements_of_a_call_share_the_failure_probability():
    model, inputs, labels = standing([2.0] * 20)
    chance, given = 0.01, {"noise_std": STD, "draws": 60, "failure_probability": 0.01}
    alone = certify("smoothing", model, inputs, labels, "l2:0.1", family=1, **given)
    together = certify("smoothing", model, inputs, labels, "l2:0.1", **given)
    part = certify("smoothing", model, inputs[:5], labels[:5], "l2:0.1", family=20, **given)
    assert (alone.probability == binomial_lower(60, 60, chance)).any()
    assert (together.probability == binomial_lower(60, 60, chance / 20)).any()
    assert torch.equal(part.radius, together.radius[:5])
    assert "all 20 statements hold together except with probability 0.01" in together.claim
    assert "each statement holds" in alone.claim
    with pytest.raises(InputError, match="`family` must be 1, each example for itself, or count the 20"):
        certify("smoothing", model, inputs, labels, "l2:0.1", family=3, **given)


def small():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    inputs = torch.rand(9, 1, 4, 4)
    return tb.wrap(module), inputs, module(inputs).argmax(1)


def test_draws_hang_on_the_generator_alone(monkeypatch):
    model, inputs, labels = small()
    before, weights = torch.get_rng_state(), [weight.clone() for weight in model.parameters()]

    def once(seed=0, rows=slice(None), **given):
        generator = torch.Generator().manual_seed(seed)
        params = {"noise_std": 0.2, "draws": 333, "family": 9, **given}
        return certify("smoothing", model, inputs[rows], labels[rows], "l2:0.05", generator=generator, **params)

    whole = once()
    assert whole.certified.any()
    for batch_size in (1, 7, 64, 1000):
        assert torch.equal(once(batch_size=batch_size).probability, whole.probability)
    assert torch.equal(once(rows=torch.tensor([8, 3])).probability, whole.probability[[8, 3]])
    assert not torch.equal(once(seed=1).probability, whole.probability)
    monkeypatch.setattr(votes, "MEMORY", 8 * 16 * 5)
    assert torch.equal(once().probability, whole.probability)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(weights, model.parameters(), strict=True))


def test_memory_does_not_grow_with_draws_and_cost_is_counted():
    model, inputs, labels = small()
    seen = []
    handle = model.module.register_forward_hook(lambda module, given, outputs: seen.append(len(outputs)))
    found = certify("smoothing", model, inputs[:1], labels[:1], "l2:0.1", noise_std=0.05, draws=20_000)
    handle.remove()
    assert sum(seen) == found.cost.forwards == 20_100
    assert max(seen) <= 256
    assert len(seen) < 20_100 / 256 + 3


def test_a_certificate_is_of_the_smoothed_model_and_speaks_of_it_alone():
    model, inputs, labels = small()
    smoothed = tb.smooth(model, 0.2)
    inside = certify("smoothing", model, inputs, labels, "l2:0.05", noise_std=0.2, draws=500)
    outside = certify("smoothing", smoothed, inputs, labels, "l2:0.05", draws=500)
    assert torch.equal(inside.radius, outside.radius)
    assert outside.claim.startswith("of the model smoothed by gaussian noise of standard deviation 0.2")
    assert certify("crown", model, inputs, labels, "l2:0.05").claim == ""
    for name in [row.name for row in CERTIFIERS if row.deterministic and row.layers]:
        with pytest.raises(UnsupportedError, match="random"):
            certify(name, smoothed, inputs, labels, "l2:0.05")
    (row,) = [row for row in CERTIFIERS if not row.deterministic]
    assert not row.audited
    with pytest.raises(InputError, match=r"smoothed by Noise\(noise_std=0.2.*got noise_std=0.3"):
        certify("smoothing", smoothed, inputs, labels, "l2:0.05", noise_std=0.3)


def test_an_audit_never_takes_a_certificate_of_another_model():
    model, inputs, labels = small()
    data = tb.LabelledSet(inputs.repeat(6, 1, 1, 1), labels.repeat(6))
    record = tb.audit(model, data, "l2:0.05", budget="quick", curve_examples=0)
    assert not [step for step in record.steps if "smoothing" in step.name]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({}, InputError, "smoothing needs `noise_std`"),
        ({"noise_std": 0.0}, InputError, "`noise_std` must be a finite number above 0"),
        ({"noise_std": "much"}, InputError, "`noise_std` must be a finite number above 0"),
        ({"noise_std": 0.1, "noise": "laplace"}, InputError, "`noise` must be one of gaussian, uniform; got 'laplace'"),
        ({"noise_std": 0.1, "draws": 0}, InputError, "`draws` must be a whole number, at least 1"),
        ({"noise_std": 0.1, "selection_draws": 1.5}, InputError, "`selection_draws` must be a whole number"),
        ({"noise_std": 0.1, "failure_probability": 1.0}, InputError, "`failure_probability` must lie strictly"),
        ({"noise_std": 0.1, "family": 0}, InputError, "`family` must be a whole number"),
        ({"noise_std": 0.1, "looks": 0}, InputError, "`looks` must be a whole number"),
        ({"noise_std": 0.1, "noise": "uniform"}, UnsupportedError, "uniform noise serves l1; got l2"),
        ({"noise_std": 0.1, "threat": "linf:0.1"}, UnsupportedError, "smoothing serves l2, l1; got linf"),
        ({"noise_std": 0.1, "threat": "l2:0.1;goal=target:1"}, UnsupportedError, "serves the goal misclassify"),
        ({"noise_std": 0.1, "labels": torch.full((9,), 7)}, InputError, "`labels` must be classes 0..2"),
        ({"noise_std": 0.1, "sigma": 0.1}, InputError, "smoothing takes noise_std, noise, draws"),
    ],
)
def test_what_cannot_be_served_is_refused(given, error, words):
    model, inputs, labels = small()
    given = {"threat": "l2:0.1", "labels": labels, **given}
    with pytest.raises(error, match=words):
        certify("smoothing", model, inputs, given.pop("labels"), given.pop("threat"), **given)


def test_noise_is_what_its_name_says():
    """Moments, ends and independence of the stream, the same for a draw whatever came before it."""
    from trustbound.certificates.methods.votes import standard
    from trustbound.threat.random import Random

    for kind, reach in (("gaussian", 3.5), ("uniform", math.sqrt(3.0))):
        noise = Noise(noise_std=2.0, kind=kind)
        drawn = noise.of(standard(noise, Random(3, torch.arange(20_000)), (5,)), 2.0**-20)
        assert float(drawn.mean().abs()) < 0.03
        assert float((drawn.std() - 2.0).abs()) < 0.03
        assert float(drawn.T.corrcoef().fill_diagonal_(0).abs().max()) < 0.04
        assert float(drawn.abs().max()) > 0.999 * 2.0 * reach
        if kind == "uniform":
            assert float(drawn.abs().max()) <= 2.0 * reach + 2.0**-20
        again = noise.of(standard(noise, Random(3, torch.tensor([700, 3])), (5,)), 2.0**-20)
        assert torch.equal(again, drawn[[700, 3]])


def test_what_the_network_sees_lies_on_the_grid_whatever_the_input():
    """So x + N is seen through one function of the sum: no low bit of x shows, and moves by grid steps shift it."""
    seen = []

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, inputs):
            seen.append(inputs.clone())
            return torch.stack([inputs[:, 0], -inputs[:, 0]], 1)

    model, noise = tb.wrap(Seeing()), Noise(noise_std=0.3)
    grain = noise.grain(model.box, torch.float64)
    base = torch.tensor([[1 / 3, 0.7]], dtype=torch.float64)
    places = base, base + 5 * grain, base + 0.3 * grain
    for inputs in places:
        with Oracle(model, examples=1) as oracle:
            counted(oracle, noise, inputs, torch.tensor([0]), draws=100, key=1, stream="a")
    first, shifted, near = seen[-3:]
    assert torch.equal((first / grain).round(), first / grain)
    assert torch.equal(shifted - first, torch.full_like(first, 5 * grain))
    assert torch.equal((near - first).abs().amax(0), (near - first).abs().amin(0))
