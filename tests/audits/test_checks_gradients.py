"""Checks of outputs and gradients: silent on honest networks, and each planted failure seen by the right one."""

import copy
import dataclasses

import pytest
import torch
from tests.audits.planted_nets import HONEST, after, before, blobs, net
from torch import nn

from trustbound.attacks import build
from trustbound.audits.checks.broken_graph import BrokenGraph, blocked_gradients
from trustbound.audits.checks.context import Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.checks.finite_differences import FiniteDifferences
from trustbound.audits.checks.gradient_rate import GradientRate
from trustbound.audits.checks.probe import coarsest, probe_run
from trustbound.audits.checks.repeatability import Determinism
from trustbound.audits.checks.restored import fingerprint
from trustbound.audits.checks.saturation import LogitScaleInvariance, SaturatedOutput, are_probabilities
from trustbound.model.broken_models import BatchStatistics, DropoutOn, SaturatedSoftmax, StopGradient
from trustbound.model.defences.k_winners import with_k_winners
from trustbound.model.defences.quantisation import InputQuantisation
from trustbound.model.wrapping import Adaptation, wrap


class StraightThrough(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs + ((inputs * 7).round() / 7 - inputs).detach())


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, inputs):
        return inputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class WrongSign(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(Reversed.apply(inputs))


class Scaled(nn.Module):
    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, inputs):
        return self.network(inputs) * self.factor


@pytest.mark.parametrize("kind", HONEST)
def test_honest_networks_raise_no_alarm_and_come_back_unchanged(kind):
    module = net(kind)
    taken = fingerprint(module)
    found = examine(before(module))
    assert {check.name: check.verdict for check in found.checks if check.verdict not in ("PASS", "SKIP")} == {}
    assert found.verdict("finite-differences") == "PASS"
    assert fingerprint(module) == taken


# Determinism ----------------------------------------------------------------------------------------------------


def test_dropout_layer_in_train_mode_is_named():
    module = net("dropout").train()
    check = Determinism().run(before(module))
    assert check.verdict == "FAIL"
    assert "2 (Dropout)" in check.finding
    assert "eval()" in check.advice
    assert module[2].training  # named, not switched off


def test_functional_dropout_is_seen_without_a_module_to_name():
    assert Determinism().run(before(DropoutOn(net(), probability=0.1))).verdict == "FAIL"


def test_batch_statistics_show_in_other_batches_only():
    finding = Determinism().measure(before(BatchStatistics(net("norm"))))
    changes = finding.evidence["changes"]
    assert changes["again"] == 0.0
    assert changes.get("in halves", 1.0) > 0.01
    assert Determinism().run(before(BatchStatistics(net("norm")))).verdict == "FAIL"


def test_a_dependence_on_the_place_in_the_batch_is_seen():
    class Placed(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            outputs = self.network(inputs)
            return outputs + 0.5 * (torch.arange(len(inputs)) == 0)[:, None] * torch.eye(4)[0]

    finding = Determinism().measure(before(Placed(net())))
    assert finding.evidence["changes"]["again"] == 0.0
    assert finding.evidence["changes"]["in another order"] > 0.0
    assert finding.value > 1e-2


def test_declared_randomness_is_a_warning_not_a_failure():
    module = DropoutOn(net(), probability=0.1)
    context = before(module, model=wrap(module, adaptation=Adaptation(draws=2)))
    assert Determinism().run(context).verdict == "WARN"


def test_a_class_that_is_masked_hides_no_randomness():
    class Masked(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return torch.cat((self.network(inputs), torch.full((len(inputs), 1), -1e9)), dim=1)

    assert Determinism().run(before(Masked(DropoutOn(net(), probability=0.1)))).verdict == "FAIL"
    assert Determinism().run(before(Masked(net()))).verdict == "PASS"


def test_rounding_is_taken_at_the_size_of_the_outputs_and_of_the_coarsest_type():
    class Wide(nn.Module):
        """float32 outside, bfloat16 inside, and another rounding in other batches."""

        def __init__(self, network, shift):
            super().__init__()
            self.network, self.shift = network, shift

        def forward(self, inputs):
            outputs = self.network(inputs).bfloat16().float() if self.shift == 0 else self.network(inputs)
            step = 2.0**-8 if self.shift == 0 else 2.0**-22
            return (outputs + self.shift) * (1 + step * (len(inputs) % 2))

    assert coarsest(wrap(Wide(net(), 0.0)), blobs()[0][:2]) == torch.finfo(torch.bfloat16).eps
    assert coarsest(wrap(net()), blobs()[0][:2]) == torch.finfo(torch.float32).eps
    for shift in (0.0, 1e6):
        check = Determinism().run(before(Wide(net(), shift)))
        assert check.verdict == "PASS", check.finding
    assert FiniteDifferences().run(before(Wide(net(), 0.0))).verdict in ("PASS", "WARN")


# Outputs --------------------------------------------------------------------------------------------------------


def test_softmax_times_200_fails_and_plain_softmax_warns():
    sharp = SaturatedOutput().measure(before(SaturatedSoftmax(net(), scale=200.0)))
    assert sharp.evidence["probabilities"]
    assert sharp.value > 0.5
    assert SaturatedOutput().run(before(SaturatedSoftmax(net(), scale=200.0))).verdict == "FAIL"
    assert SaturatedOutput().run(before(nn.Sequential(net(), nn.Softmax(dim=1)))).verdict == "WARN"


def test_log_probabilities_are_logits_and_huge_logits_are_not_probabilities():
    assert SaturatedOutput().run(before(nn.Sequential(net(), nn.LogSoftmax(dim=1)))).verdict == "PASS"
    huge = SaturatedOutput().measure(before(Scaled(net(), 1000.0)))
    assert not huge.evidence["probabilities"]
    assert huge.evidence["one_hot"] > 64
    assert not are_probabilities(torch.rand(9, 2))


def test_huge_logits_condemn_only_a_search_whose_every_loss_is_flat():
    huge = Scaled(net(), 10_000.0)
    assert SaturatedOutput().run(before(huge)).verdict == "PASS"  # the quick suite climbs the logit margin too
    assert GradientRate().run(before(huge)).verdict in ("PASS", "WARN")
    blind = (build("pgd", loss="probability-margin"),)
    found = GradientRate().run(before(huge, attacks=blind)), SaturatedOutput().run(before(huge, attacks=blind))
    flat = [check.verdict == "FAIL" for check in found]
    broken = probe_run(before(huge, "linf:0.3", attacks=blind), blind[0]).success
    alive = probe_run(before(net(), "linf:0.3"), blind[0]).success
    # They fail where that search is indeed blind, and only there.
    assert flat == [int(broken.sum()) < 0.5 * int(alive.sum())] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_probabilities_are_seen(dtype):
    module = nn.Sequential(net(), nn.Softmax(dim=1)).to(dtype)
    check, finding = SaturatedOutput().look(before(module))
    assert finding.evidence["probabilities"]
    assert check.verdict == "WARN"


def test_outputs_that_hide_a_gradient_matter_to_those_who_use_one():
    for access in ("decisions", "scores"):
        assert SaturatedOutput().run(before(SaturatedSoftmax(net()), f"linf:0.1;access={access}")).verdict == "SKIP"
    assert SaturatedOutput().run(before(SaturatedSoftmax(net()), "linf:0.1")).verdict == "FAIL"
    assert SaturatedOutput().run(before(Scaled(net(), 1000.0), "linf:0.1")).verdict == "PASS"


def test_a_killed_gradient_is_not_blamed_on_the_outputs():
    assert SaturatedOutput().run(before(StopGradient(net()))).verdict == "PASS"


def centres(classes=20, features=12):
    """A nearest-centre classifier and examples between the centres: where cross-entropy and margin lead apart."""
    generator = torch.Generator().manual_seed(0)
    middle = torch.rand(classes, features, generator=generator)
    linear = nn.Linear(features, classes)
    with torch.no_grad():
        linear.weight.copy_(20 * middle)
        linear.bias.copy_(-10 * middle.square().sum(1))
    inputs = middle.repeat(8, 1) + 0.05 * torch.randn(8 * classes, features, generator=generator)
    inputs = inputs.clamp(0, 1)
    return linear, inputs, linear(inputs).argmax(1)


def rescaled(factor, *attacks, threat="linf:0.2"):
    """The check behind a search with these attacks, of the classifier with logits times a factor; and the broken."""
    linear, inputs, labels = centres()
    context = after(Scaled(linear, factor), threat=threat, inputs=inputs, labels=labels)
    broken = torch.zeros(len(inputs), dtype=torch.bool)
    for one in attacks:
        broken |= probe_run(context, one).success
    context = dataclasses.replace(context, evidence=Evidence(broken=broken), attacks=attacks)
    return LogitScaleInvariance().look(context), broken


@pytest.mark.parametrize("factor", [1e-9, 1e-7, 1e-4, 1e4, 1e9])
def test_a_search_that_depends_on_the_scale_is_seen_at_any_factor_and_only_where_it_loses_by_it(factor, monkeypatch):
    # nothing brings the logits back
    monkeypatch.setattr("trustbound.attacks.model_access.logit_scale.scale_for", lambda found: 1.0)
    ascent = build("apgd", loss="ce", steps=30)
    (check, finding), broken = rescaled(factor, ascent)
    _, at_one = rescaled(1.0, ascent)
    lost = int((at_one & ~broken).sum())
    # It is condemned where the same attack would have broken much more, and only there.
    if lost > 20:
        assert check.verdict in ("WARN", "FAIL"), check.finding
        assert finding.value > 0.05
        assert "apgd on ce" in check.finding
    else:
        assert lost < 5
        assert check.verdict == "PASS", check.finding
    assert rescaled(1.0, ascent)[0][0].verdict == "PASS"


@pytest.mark.parametrize("factor", [1e-9, 1e9])
def test_a_search_that_brings_the_logits_back_is_not_condemned_for_their_scale(factor):
    (check, _), _ = rescaled(factor, build("apgd", loss="ce", steps=30))
    assert check.verdict in ("PASS", "WARN"), check.finding


@pytest.mark.parametrize("factor", [1e-9, 1e-4, 1.0, 1e4, 1e9])
def test_attacks_that_the_search_did_not_run_condemn_nothing(factor):
    (check, finding), broken = rescaled(factor, build("pgd", loss="margin", steps=20))
    assert check.verdict == "PASS", check.finding
    assert finding.evidence["same"]
    gained = finding.evidence["gained"]
    assert (min(gained) <= 1e-9, max(gained) >= 1e9, *gained.values()) == (True, True, (0, 0), (0, 0))
    assert 100 < int(broken.sum()) < 160


def test_scales_that_the_outputs_type_does_not_hold_are_left_out():
    (check, finding), _ = rescaled(1e33, build("pgd", loss="margin", steps=20))
    assert check.verdict == "PASS"
    assert 1e9 in finding.evidence["beyond"]
    assert "does not hold ×1e+09" in check.finding


def test_scales_are_tried_on_what_stands_alone():
    linear, inputs, labels = centres()
    context = after(linear, Evidence(broken=torch.ones(len(labels), dtype=torch.bool)), inputs=inputs, labels=labels)
    assert LogitScaleInvariance().run(context).verdict == "SKIP"
    half = torch.arange(160) < 150
    proven = after(linear, Evidence(broken=half, certified=torch.arange(160) >= 155), inputs=inputs, labels=labels)
    assert LogitScaleInvariance().run(proven).finding.startswith("of 5 examples")


# Gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_graph", [True, False])
def test_a_gradient_killer_leaves_no_gradient_and_is_named(keep_graph):
    context = before(StopGradient(net(), keep_graph=keep_graph))
    assert GradientRate().measure(context).value == 1.0
    check = BrokenGraph().run(context)
    assert check.verdict == "FAIL"
    assert "the model itself (StopGradient)" in check.finding
    assert "stand_ins" in check.advice


def test_nan_gradients_are_counted_as_such():
    class Root(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return self.network(inputs) + (inputs - inputs).sum(dim=1, keepdim=True).sqrt()

    finding = GradientRate().measure(before(Root(net())))
    assert finding.evidence["nan"] + finding.evidence["infinite"] > 0
    assert finding.value == 1.0


def test_the_gradient_rate_counts_a_known_share():
    class HalfDead(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            alive = (inputs[:, :1] > 0.5).to(inputs.dtype)  # by construction, half of the classes
            return self.network(inputs * alive + (inputs * (1 - alive)).detach())

    inputs, _ = blobs()
    finding = GradientRate(examples=160, steps=4).measure(before(HalfDead(net()), "linf:0.001"))
    assert finding.value == pytest.approx(float((inputs[:, 0] <= 0.5).float().mean()), abs=0.03)


def test_the_innermost_module_is_named_and_the_identity_proposed():
    inner = InputQuantisation(net(), levels=8)
    inner = nn.Sequential(nn.Identity(), inner)
    check = BrokenGraph().run(before(inner))
    assert check.finding.startswith("the gradient dies in 1.quantise (Quantise) for 100.0%")
    assert "'1.quantise': lambda inputs: inputs" in check.advice


def test_following_the_advice_brings_the_gradient_back():
    module = InputQuantisation(net(), levels=8)
    (worst, *_), lost, _ = blocked_gradients(before(module))
    assert lost == 1.0
    declared = wrap(module, adaptation=Adaptation(stand_ins={worst.path: lambda inputs: inputs}))
    assert GradientRate().run(before(module, model=declared)).verdict == "PASS"
    assert FiniteDifferences().run(before(module, model=declared)).verdict == "SKIP"


def test_a_detached_side_branch_is_no_broken_graph():
    class Gated(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network
            self.gate = nn.Sequential(nn.Linear(6, 6), nn.Sigmoid())

        def forward(self, inputs):
            return self.network(inputs * (1 + self.gate(inputs.detach())))

    torch.manual_seed(0)
    assert BrokenGraph().run(before(Gated(net()))).verdict == "PASS"


@pytest.mark.parametrize(
    "plant",
    [
        lambda: StraightThrough(net()),
        lambda: WrongSign(net()),
        lambda: StopGradient(net()),
        lambda: StopGradient(net(), keep_graph=False),
        lambda: InputQuantisation(net(), levels=8),
        lambda: with_k_winners(net(), share=0.2),
    ],
    ids=["straight-through", "wrong sign", "killed", "detached", "quantised", "k-winners"],
)
def test_what_is_no_derivative_fails_finite_differences(plant):
    assert FiniteDifferences().run(before(plant())).verdict == "FAIL"


def test_jumps_and_disagreement_are_told_apart():
    winners = FiniteDifferences().measure(before(with_k_winners(net(), share=0.2))).evidence
    assert winners["jump"] > 0
    assert winners["disagree"] == 0  # autograd is right between the jumps
    reversed_ = FiniteDifferences().measure(before(WrongSign(net()))).evidence
    assert reversed_["disagree"] == 24
    assert reversed_["jump"] == 0


@pytest.mark.parametrize("slope", [1.0, 1e3])
def test_steep_but_continuous_is_no_jump(slope):
    class Steep(nn.Module):
        def forward(self, inputs):
            z = torch.relu(slope * (inputs - 0.5)).sum(dim=1, keepdim=True)
            return torch.cat((z, -z, z * 0.5, z * 0.25), dim=1)

    evidence = FiniteDifferences().measure(before(nn.Sequential(Steep()))).evidence
    assert (evidence["jump"], evidence["disagree"]) == (0, 0)


def test_a_random_model_is_not_measured_by_finite_differences():
    module = DropoutOn(net(), probability=0.2)
    check = FiniteDifferences().run(before(module))
    assert (check.verdict, check.value) == ("WARN", None)
    assert "determinism" in check.finding
    declared = before(module, model=wrap(module, adaptation=Adaptation(draws=2)))
    assert FiniteDifferences().run(declared).verdict == "SKIP"


def test_a_model_without_float64_copy_is_measured_in_float32():
    class Uncopied(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def __deepcopy__(self, memory):
            raise TypeError("no copies")

        def forward(self, inputs):
            return self.network(inputs)

    honest = FiniteDifferences().measure(before(Uncopied(net("silu"))))
    assert honest.evidence["dtype"] == "torch.float32"
    assert honest.value == 0.0
    assert FiniteDifferences().run(before(Uncopied(WrongSign(net("silu"))))).verdict == "FAIL"


def test_probes_leave_weights_gradients_and_modes_alone():
    module = copy.deepcopy(net("norm"))
    for weight in module.parameters():
        weight.grad = torch.ones_like(weight)
    module[1].train()
    taken = fingerprint(module)
    examine(before(module))
    assert fingerprint(module) == taken
