"""How results show themselves: a few lines in a terminal, a sentence and a picture in a notebook."""

import dataclasses

import numpy as np
import torch

import trustbound as tb
from trustbound.exports.notebook import view
from trustbound.record.audit import Check
from trustbound.report.wording import noun, withstanding


def test_a_record_is_at_most_five_lines_whatever_it_holds(audited):
    record = audited.record
    lines = repr(record).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("AuditRecord: fc on 24 examples of digits/test, budget quick, clean accuracy ")
    first = record.brackets[0]
    assert f"({first.certified} certified, {first.unknown} unknown, {first.broken} broken" in lines[1]
    many = dataclasses.replace(record, brackets=record.brackets * 40)
    assert len(repr(many).splitlines()) == 5
    assert "… and 78 more threats" in repr(many)
    none = dataclasses.replace(record, brackets=(), checks=())
    assert len(repr(none).splitlines()) == 2


def test_results_are_short_as_tensors_and_as_arrays(audited):
    inputs, labels = audited.data.inputs, audited.data.labels
    found = tb.attack("fgsm", audited.model, inputs, labels, "linf:0.1", seed=1)
    assert repr(found).splitlines()[0] == (
        f"AttackResult: the goal is reached on {int(found.success.sum())} of 24 examples "
        f"({int(found.success.sum()) / 24:.1%})"
    )
    arrays = tb.attack("fgsm", audited.model, inputs.numpy(), labels.numpy(), "linf:0.1", seed=1)
    assert repr(arrays).splitlines()[::2] == repr(found).splitlines()[::2]
    assert np.array_equal(arrays.adversarial, found.adversarial.numpy())
    proof = tb.certify("interval", audited.model, inputs, labels, "linf:0.001")
    assert repr(proof).startswith(f"CertificationResult: interval proves {int(proof.certified.sum())} of 24 examples")
    smoothed = tb.smooth(audited.model, noise_std=0.25)
    few = {"draws": 200, "selection_draws": 20}
    voted = tb.certify("smoothing", smoothed, inputs[:2], labels[:2], "l2:0.1", seed=1, **few)
    assert len(repr(voted).splitlines()) <= 5
    assert len(repr(voted)) < 500
    again = tb.certify("smoothing", smoothed, inputs[:2], labels[:2], "l2:0.1", seed=1, **few)
    assert torch.equal(voted.radius, again.radius)


def test_the_view_escapes_and_warns(audited):
    record = dataclasses.replace(
        audited.record,
        model=dataclasses.replace(audited.record.model, name="<script>alert(1)</script>"),
        checks=(Check(name="gradients", verdict="FAIL", severity="error", value=None, finding="<b>none</b>"),),
    )
    html = view(record)
    assert html == record._repr_html_()
    assert "<script" not in html
    assert "<b>none" not in html
    assert "Not to be trusted:" in html
    assert "1 FAIL" in html
    assert "nothing is known" in view(dataclasses.replace(record, brackets=()))


def test_a_bracket_is_said_no_better_than_it_is(audited):
    bracket = audited.record.brackets[0]
    what = noun((1, 8, 8))
    assert "withstand it, and none is proven to" in withstanding(
        dataclasses.replace(bracket, certified=0, lower=0.0), what
    )
    closed = withstanding(dataclasses.replace(bracket, lower=bracket.upper), what)
    assert "between" not in closed
    assert withstanding(bracket, what).startswith("Each pixel changed by up to 0.1: ")
