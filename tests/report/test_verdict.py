"""The words: never more than the record, and what speaks against it first."""

import dataclasses
import io

import pytest
from rich.console import Console

from trustbound.errors import InputError
from trustbound.record.binomial import binomial_interval
from trustbound.report import bracket_picture, render, render_comparison, summary, write_comparison
from trustbound.report.figures.curve import stairs
from trustbound.report.figures.palette import COLOURS, STACK, colour, role_of
from trustbound.report.figures.waterfall import stages
from trustbound.report.formatting import amount, duration, interval, measured, number, share, size_of
from trustbound.report.sections.pairs import order
from trustbound.report.verdict import contradiction, judge, ordered_checks
from trustbound.threat import Threat

NBSP = "\u00a0"


def plain(text):
    return text.replace(NBSP, " ")


def shown(record, width=100):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(summary(record))
    return plain(console.file.getvalue())


def test_the_claim_in_words(specimens):
    record, _ = specimens.record()
    verdict = judge(record)
    assert verdict.standing == "trusted"
    assert plain(verdict.claims[0].sentences[0]) == (
        "Of 300 images, at least 41.0 % and at most 63.3 % are classified correctly under any change of each "
        "pixel by up to 0.1."
    )
    low, high = binomial_interval(123, 300)[0], binomial_interval(190, 300)[1]
    assert f"lies between {low * 100:.1f} % and {high * 100:.1f} % with at least 95 %" in plain(
        " ".join(verdict.claims[0].sentences)
    )
    assert any("That an attack failed proves nothing" in limit for limit in verdict.limits)
    assert "96.7 % of 300 images (290)" in plain(verdict.clean)


@pytest.mark.parametrize(
    ("threat", "words"),
    [
        ("linf:8/255", "each pixel by up to 8/255 (0.03137)"),
        ("l2:inf", "any change at all"),
        ("l1:3", "sum up to at most 3"),
        ("l0:1", "at most 1 pixel."),
        ("l0:20", "at most 20 pixels."),
        ("patch:5x5", "any change that patch:5x5 allows (a 5x5 square)"),
    ],
)
def test_threats_in_words(threat, words, specimens):
    change = "a 5x5 square" if threat.startswith("patch") else Threat.parse(threat).perturbations.words
    record, _ = specimens.record(brackets=(specimens.bracket(threat, change=change),))
    assert words in judge(record).claims[0].sentences[0]


def test_other_goals_are_not_called_accuracy(specimens):
    record, _ = specimens.record(brackets=(specimens.bracket("l2:0.5", goal="target:3"),))
    assert "classified correctly under" not in judge(record).claims[0].sentences[0]


def test_distrust_comes_first(specimens):
    record, _ = specimens.light()
    bad = dataclasses.replace(specimens.CHECKS[0], verdict="FAIL", finding="Logits differ by 0.7.")
    failed = dataclasses.replace(record, checks=(*record.checks, bad))
    for text in (judge(failed).headline, shown(failed, 400)):
        assert text.startswith("These numbers are not to be trusted, because the check determinism failed")
        assert "0.7" in text
    assert "with at least 95 %" not in plain(" ".join(judge(failed).claims[0].sentences))
    assert "Not to be trusted" in render(failed)
    assert "Not to be trusted" not in render(record)
    ended = dataclasses.replace(record, exit_code=3, verdict="the sandwich broke")
    assert judge(ended).headline.startswith("These numbers are not to be trusted")
    assert "the sandwich broke" in judge(ended).headline
    missed = judge(dataclasses.replace(record, exit_code=1))
    assert missed.standing == "missed"
    assert "threshold was missed" in missed.headline
    note = dataclasses.replace(bad, severity="note")
    mild = judge(dataclasses.replace(record, checks=(note,)))
    assert mild.standing == "trusted"
    assert any("1 check of the evaluation failed" in limit for limit in mild.limits)


def test_contradictions_are_seen(specimens):
    good = specimens.bracket()
    assert contradiction(good) == ""
    crossed = dataclasses.replace(good, certified=200)
    assert "more is certified" in contradiction(crossed)
    assert "do not add up" in contradiction(dataclasses.replace(good, unknown=10))
    record, _ = specimens.record(brackets=(crossed,))
    assert judge(record).standing == "distrusted"


def test_nothing_proven_says_so(specimens):
    said = " ".join(judge(specimens.bare()).claims[0].sentences)
    assert "Nothing could be proven (no proof: act (GELU))" in said
    assert "were certified" not in said
    assert "none is proven" in judge(specimens.bare()).headline


def test_rounding_never_claims_all_or_none():
    assert plain(share(1999 / 2000)) == "100.0 %".replace("100.0 %", "> 99.9 %")
    assert plain(share(1 / 3000)) == "< 0.1 %"
    assert plain(share(0.0)) == "0 %"
    assert plain(share(1.0)) == "100 %"
    assert plain(share(0.9994)) == "99.9 %"
    assert share(None) == number(float("nan")) == "not defined"
    assert plain(interval((0.0, 1.0))) == "0.0–100.0 %"
    assert number(-0.5) == "−0.5"
    assert duration(59.6) == "60 s"
    assert size_of("linf:1/0") is None
    assert plain(measured(2 / 3, 3)).startswith("66.7 % (9.4–99.2 %)")


def test_checks_are_read_worst_first(specimens):
    order = [(each.verdict, each.severity) for each in ordered_checks(specimens.hostile()[0].checks)]
    ranks = [(("FAIL", "WARN", "PASS", "SKIP").index(v), ("error", "warning", "note").index(s)) for v, s in order]
    assert ranks == sorted(ranks)
    assert len(order) == 40


def test_stages_end_at_the_bracket(specimens):
    record, _ = specimens.record(("linf:0.1", "l2:0.5"))
    for b in record.brackets:
        for lost in (0, 2, 4):
            steps = [s for s in record.steps if s.threat == b.threat][lost:]
            last = stages(b, steps, 2.71)[-1]
            assert (last.certified, last.unknown, last.broken) == (b.certified, b.unknown, b.broken)


def test_stairs_bound_whatever_falls():
    """A falling truth between its measured bounds stays inside the drawn band at every x."""
    x = [0.0, 1.0, 2.5, 4.0]
    upper, lower = [0.9, 0.8, 0.8, 0.3], [0.9, 0.5, 0.1, 0.0]
    high, low = stairs(upper, after=True), stairs(lower, after=False)
    for i in range(3):  # on (x[i], x[i+1]) the corners 2i+1 and 2i+2 hold
        assert high[2 * i + 1] == high[2 * i + 2] == upper[i]
        assert low[2 * i + 1] == low[2 * i + 2] == lower[i + 1]
    assert len(high) == len(low) == 2 * len(x)


def _luminance(hex_colour):
    parts = [int(hex_colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    a, b = sorted((_luminance(one), _luminance(other)))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_are_legible(theme):
    of = {role: pair[theme] for role, pair in COLOURS.items()}
    for text in ("ink", "muted", "accent", "pass", "warn", "fail"):
        for ground in ("paper", "card"):
            assert contrast(of[text], of[ground]) >= 4.5, (text, ground)
    for verdict, _ in STACK:
        assert contrast(of[f"on-{verdict}"], of[verdict]) >= 4.5, verdict
        assert role_of(colour(verdict)) == verdict


def test_bracket_picture_stands_alone(specimens):
    from xml.etree import ElementTree

    record, _ = specimens.hostile()
    text = bracket_picture(record.brackets)
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme:dark" in text
    assert "at least 41.0" in text
    assert bracket_picture(record.brackets) == text
    assert "script>" not in {each.tag for each in root.iter()}
    ElementTree.fromstring(bracket_picture(()))
    wide = bracket_picture([specimens.bracket(certified=0, unknown=1, broken=0, misclassified=0)], width=328)
    ElementTree.fromstring(wide)


def test_bar_lengths_are_the_shares(specimens):
    """The white labels stand in the middle of their pieces: read their places back from the drawing."""
    import re

    b = specimens.bracket(certified=100, unknown=100, broken=150, misclassified=50)
    text = bracket_picture([b], width=416)
    placed = {said: float(x) for x, said in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>(\d+)</text>', text) if said}
    assert placed["150"] == pytest.approx(8 + 400 * (200 + 75) / 400, abs=0.1)
    assert placed["50"] == pytest.approx(8 + 400 * 375 / 400, abs=0.1)


def test_summary_shows_the_table_and_failing_checks(specimens):
    record, _ = specimens.record(("linf:0.1", "l2:0.5"))
    for width in (80, 120):
        text = shown(record, width)
        for part in ("linf:0.1", "41.0 %", "(35.4–46.8 %)", "63.3 %", "27.7 %", "WARN too-few-examples"):
            assert part in text, (width, part)
        assert "PASS determinism" not in text
        assert max(len(line) for line in text.splitlines()) <= width
    hostile, _ = specimens.hostile()
    assert "[bold]" in shown(hostile)
    assert "\x1b" not in shown(hostile)
    assert "none made" in shown(specimens.bare())


def test_findings_and_advice_are_sentences_of_their_own(specimens):
    record, _ = specimens.light()
    warned = dataclasses.replace(record.checks[1], finding="of 64 examples 3 broke,", advice="search longer")
    text = shown(dataclasses.replace(record, checks=(warned,)), 200)
    assert ": of 64 examples 3 broke. Search longer." in text


def test_comparison(specimens, tmp_path):
    record, _ = specimens.light()
    better = dataclasses.replace(
        record,
        model=dataclasses.replace(record.model, name="hardened"),
        brackets=(specimens.bracket(certified=250, unknown=20, broken=20, misclassified=10),),
    )
    text = plain(render_comparison([record, better]))
    assert (
        "hardened withstands more than cnn-digits, and on these images that is proven: at least 83.3 % against at most "
        "63.3 %." in text
    )
    assert "83.3 % (78.6–87.4 %)" in text
    assert "http" not in text
    assert "<script" not in text
    assert render_comparison([record, better]) == render_comparison([record, better])
    other = dataclasses.replace(better, data=dataclasses.replace(better.data, sha256="other"))
    for second, words in (
        (other, "did not use the same examples"),
        (dataclasses.replace(better, exit_code=3), "are not to be trusted"),
    ):
        said = render_comparison([record, second])
        assert "withstands more" not in said
        assert words in said
    same = render_comparison([record, record, specimens.hostile()[0]])
    assert "cnn-digits (1)" in same
    assert "cnn-digits (2)" in same
    assert "<script" not in same
    with pytest.raises(InputError, match="at least two"):
        render_comparison([record])
    with pytest.raises(InputError, match="one name for each"):
        render_comparison([record, better], names=["a"])
    assert write_comparison([record, better], tmp_path / "c.html").read_text() == render_comparison([record, better])


def paired(specimens, only_first, only_second, both=100, neither=50):
    """Two audits of the same images, of which so many withstood the attacks in one of them alone."""
    record, _ = specimens.light()
    found = []
    for ours in (True, False):
        stood = [True] * both + [ours] * only_first + [not ours] * only_second + [False] * neither
        rows = tuple(
            dataclasses.replace(row, verdict="unknown" if stands else "broken")
            for row, stands in zip(record.examples, stood, strict=False)
        )
        counts = {"certified": 0, "unknown": sum(stood), "broken": len(stood) - sum(stood), "misclassified": 0}
        found.append(dataclasses.replace(record, examples=rows, brackets=(specimens.bracket(**counts),)))
    return found


@pytest.mark.parametrize(
    ("split", "words", "p"),
    [
        ((0, 20), "b withstood the attacks on more images than a, more than chance explains", "p < 0.001"),
        ((12, 1), "a withstood the attacks on more images than b, more than chance explains", "p = 0.0034"),
        ((7, 2), "does not tell a and b apart: their brackets overlap", "p = 0.18"),
        ((0, 0), "does not tell a and b apart", "p = 1"),
    ],
)
def test_a_comparison_answers_with_the_paired_test(specimens, split, words, p):
    answer, numbers = order(paired(specimens, *split), ["a", "b"], "linf:0.1")
    assert words in answer
    assert f"{amount(split[1], 'image')} withstood every attack only in b, {split[0]} only in a (" in numbers
    assert p in numbers
    assert ("may be chance" in numbers) == ("apart" in answer)


def test_what_is_proven_is_said_whatever_chance_says(specimens):
    one, two = paired(specimens, 0, 4, both=10, neither=286)
    two = dataclasses.replace(two, brackets=(specimens.bracket(certified=12, unknown=2, broken=286, misclassified=0),))
    answer, numbers = order([one, two], ["a", "b"], "linf:0.1")
    assert plain(answer) == (
        "b withstands more than a, and on these images that is proven: at least 4.0 % against at most 3.3 %."
    )
    assert "p = 0.12" in numbers
    assert "for further images the difference may be chance" in numbers
    assert order([two, one], ["b", "a"], "linf:0.1")[0] == answer


def test_several_comparisons_are_corrected_and_other_examples_are_not_compared(specimens):
    one, two = paired(specimens, 1, 9)
    said = order([one, two, two], ["a", "b", "c"], "linf:0.1")
    assert "p = 0.043, corrected for 2 comparisons" in said[1]
    part = dataclasses.replace(two, data=dataclasses.replace(two.data, indices=two.data.indices[:100], n=100))
    assert order([one, part], ["a", "b"], "linf:0.1") == (
        "No order of a and b is claimed: the audits did not use the same examples (300 and 100 rows of digits (test), "
        "100 of them in both).",
    )
    bare = dataclasses.replace(two, examples=())
    assert "none are compared one by one" in order([one, bare], ["a", "b"], "linf:0.1")[1]
    assert "b alone was audited" in order([dataclasses.replace(one, brackets=()), two], ["a", "b"], "linf:0.1")[0]
