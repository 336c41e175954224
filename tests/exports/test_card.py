"""The model card: its numbers are the record's, its claims none beyond it."""

import dataclasses

import trustbound as tb
from trustbound.exports.card import model_card
from trustbound.record.audit import Check
from trustbound.report.formatting import interval, share
from trustbound.report.verdict import judge


def rows(card):
    return [line.split(" | ") for line in card.splitlines() if line.startswith("| ") and "---" not in line][1:]


def test_each_bound_stands_there_with_its_interval(audited, tmp_path):
    (written,) = tb.export(audited.record, card=tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert written.said.startswith("a section of ")
    assert len(rows(card)) == 2
    for line, bracket in zip(rows(card), audited.record.brackets, strict=True):
        assert line[0] == f"| {bracket.threat}"
        assert line[1] == f"{share(bracket.lower)} ({interval(bracket.lower_interval)})"
        assert line[2] == f"{share(bracket.upper)} ({interval(bracket.upper_interval)})"
        assert line[3] == f"{bracket.unknown} of {bracket.n} |"
    for said in (audited.record.command, audited.record.model.sha256, audited.record.data.sha256):
        assert said in card
    for limit in judge(audited.record).limits:
        assert limit.split(":")[0] in card.replace("\\", "")


def test_numbers_that_are_not_to_be_trusted_make_no_claim(audited):
    failed = Check(name="gradients", verdict="FAIL", severity="error", value=None, finding="they are all 0")
    card = model_card(dataclasses.replace(audited.record, checks=(failed,), exit_code=3))
    assert "**These numbers are not to be trusted**" in card
    assert "they are all 0" in card
    assert rows(card) == []
    assert "withstand" not in card
    assert share(audited.record.brackets[0].upper) not in card


def test_a_bound_that_is_not_there_is_not_claimed(audited):
    first = audited.record.brackets[0]
    unknown = first.unknown + first.certified
    bracket = dataclasses.replace(first, no_proof="no proof: 1 (GELU)", lower=0.0, certified=0, unknown=unknown)
    card = model_card(dataclasses.replace(audited.record, brackets=(bracket,), doubts={}, checks=()))
    assert "Nothing could be proven (no proof: 1 (GELU)): the lower bound is 0" in card
    assert "calibration error" not in card
    assert "No check of the evaluation was made" in card


def test_names_from_outside_make_no_markup(audited):
    evil = "x](http://evil) <img src=x> `code` | # head\n# head"
    record = dataclasses.replace(
        audited.record,
        command="trustbound audit '```' `ls`",
        model=dataclasses.replace(audited.record.model, name=evil),
        data=dataclasses.replace(audited.record.data, name=evil),
    )
    card = model_card(record)
    assert "<img" not in card.replace("\\<img", "")
    assert "](http" not in card.replace("\\]", "")
    assert [line for line in card.splitlines() if line.startswith("#")] == [
        "## How far this model can be trusted", "### What was not shown", "### How to repeat it",
    ]  # fmt: skip
    assert "````sh\ntrustbound audit '```' `ls`\n````" in card
