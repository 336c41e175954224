"""VNN-LIB files: what they say is read exactly; what is wrong is named with its line."""

import gzip
import itertools

import pytest
import torch

import trustbound as tb
from trustbound.certificates.verification.vnnlib import parse, read_vnnlib
from trustbound.errors import InputError

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n"
BOX = "(assert (>= X_0 0)) (assert (<= X_0 1)) (assert (>= X_1 -1e-1)) (assert (<= X_1 +.5))\n"
Y = "(assert (<= Y_0 Y_1))"


def test_limits_and_rows_are_those_of_the_text():
    found = parse(HEAD + BOX + "(assert (and (<= (- (* 2 Y_0) (+ Y_1 1) 0.5) (- 3)) (>= Y_1 (* Y_0 -0.25))))")
    (query,) = found.queries
    assert (found.inputs, found.outputs) == (2, 2)
    assert query.low.tolist() == [0.0, -0.1]
    assert query.high.tolist() == [1.0, 0.5]
    (one,) = query.unsafe
    assert one.rows.tolist() == [[2.0, -1.0], [-0.25, -1.0]]
    assert one.limits.tolist() == [-1.5, 0.0]


def test_the_tighter_of_two_limits_counts_and_equal_means_both():
    (query,) = parse(HEAD + BOX + "(assert (<= (* -2 X_0) -0.5)) (assert (= X_1 0.25))" + Y).queries
    assert query.low.tolist() == [0.25, 0.25]
    assert query.high.tolist() == [1.0, 0.25]


def test_choices_of_inputs_make_boxes_and_choices_of_outputs_make_sets():
    text = (
        HEAD
        + "(assert (or (and (>= X_0 0) (<= X_0 1)) (and (>= X_0 2) (<= X_0 3))))"
        + "(assert (and (>= X_1 0) (<= X_1 1)))"
        + "(assert (or (<= Y_0 0) (and (<= Y_1 0) (or (>= Y_0 1) (>= Y_0 2)))))"
    )
    found = parse(text)
    assert [query.low.tolist() for query in found.queries] == [[0.0, 0.0], [2.0, 0.0]]
    for query in found.queries:
        assert [len(one.rows) for one in query.unsafe] == [1, 2, 2]


def test_a_box_that_is_empty_is_left_out_and_a_property_without_inputs_holds():
    text = HEAD + BOX + "(assert (or (>= X_0 2) (<= X_0 0.5)))" + Y
    assert [query.high.tolist() for query in parse(text).queries] == [[0.5, 0.5]]
    assert parse(HEAD + BOX + "(assert (>= X_0 2))" + Y).queries == ()
    assert parse(HEAD + BOX + "(assert (<= 2 1))" + Y).queries == ()


def test_words_about_the_solver_and_remarks_say_nothing():
    parse("; a (remark\n(set-logic QF_LRA)\n" + HEAD + BOX + Y + "\n(check-sat)\n(get-model)(exit)")
    parse(HEAD.replace("declare-const X_0", "declare-fun X_0 ()") + BOX + Y)


def test_a_set_is_what_brute_force_says_it_is():
    text = HEAD + BOX + "(assert (or (and (<= Y_0 1) (>= (+ Y_0 Y_1) 1)) (<= (* 2 Y_1) -3)))"
    (query,) = parse(text).queries
    grid = torch.tensor(list(itertools.product(torch.linspace(-2, 2, 17).tolist(), repeat=2)), dtype=torch.float64)
    first, second = grid.T
    inside = ((first <= 1) & (first + second >= 1)) | (2 * second <= -3)
    assert torch.equal(query.margins(grid) <= 0, inside)
    assert 0 < int(inside.sum()) < len(grid)


@pytest.mark.parametrize("robust", [True, False])
def test_what_is_written_is_read_again(robust, tmp_path):
    asked = parse(HEAD + BOX + "(assert (or (<= Y_0 Y_1) (and (>= Y_0 0.1) (<= Y_1 (* 3 Y_0)))))")
    if robust:
        asked = tb.Property.robust(torch.rand(5), 0.1, label=2, classes=4)
    path = tmp_path / "a.vnnlib.gz"
    path.write_bytes(gzip.compress(asked.text().encode()))
    again = read_vnnlib(path)
    assert (again.inputs, again.outputs) == (asked.inputs, asked.outputs)
    for one, two in zip(again.queries, asked.queries, strict=True):
        assert torch.equal(one.low, two.low)
        assert torch.equal(one.high, two.high)
        for own, other in zip(one.unsafe, two.unsafe, strict=True):
            assert torch.equal(own.rows, other.rows)
            assert torch.equal(own.limits, other.limits)


#: What is wrong, the line that is named, and what is said of it.
WRONG = {
    "a word": (HEAD + "check-sat\n", 5, "command in parentheses"),
    "never opened": (HEAD + "\n)\n", 6, "not opened"),
    "never closed": (HEAD + "(assert (<= X_0 1)\n\n", 5, "not closed"),
    "an unknown command": (HEAD + "(push 1)", 5, "'push'"),
    "the second form": ("(declare-network N (declare-input X Real [2]))", 1, "VNN-LIB 2"),
    "no name": (HEAD + "(declare-const Z_0 Real)", 5, "X_i or Y_i of Real"),
    "no Real": (HEAD + "(declare-const X_2 Int)", 5, "X_i or Y_i of Real"),
    "twice": (HEAD + "(declare-const X_1 Real)", 5, "declared in line 2 already"),
    "a gap": (HEAD + "(declare-const X_3 Real)" + BOX + Y, 5, "X_2 is not"),
    "undeclared": (HEAD + "\n(assert (<= X_7 1))", 6, "X_7 is not declared"),
    "no number": (HEAD + "(assert (<= X_0 one))", 5, "got 'one'"),
    "nan": (HEAD + "(assert (<= X_0 nan))", 5, "got 'nan'"),
    "infinity": (HEAD + "(assert (<= X_0 inf))", 5, "got 'inf'"),
    "beyond float64": (HEAD + "(assert (<= X_0 1e400))", 5, "between 1e-300 and 1e300"),
    "an output beyond float64": (HEAD + "\n(assert (>= Y_0 1e400))", 6, "between 1e-300 and 1e300"),
    "a coefficient beyond float64": (HEAD + "(assert (<= (* 1e400 Y_0) 1))", 5, "between 1e-300 and 1e300"),
    "what float64 holds as zero": (HEAD + "(assert (<= (* 1e-400 Y_0) -1e-399))", 5, "between 1e-300 and 1e300"),
    "a limit that float64 holds as zero": (HEAD + "(assert (>= X_0 1e-400))", 5, "between 1e-300 and 1e300"),
    "a quotient that float64 holds as zero": (
        HEAD + "(assert (<= (* 1e200 X_0) 1e-200))" + BOX + Y,
        5,
        "between 1e-300 and 1e300",
    ),
    "strict": (HEAD + "(assert (< X_0 1))", 5, "Strict inequalities"),
    "not": (HEAD + "(assert (not (<= X_0 1)))", 5, "got 'not'"),
    "three sides": (HEAD + "(assert (<= X_0 1 2))", 5, "two sides; got 3"),
    "mixed": (HEAD + "(assert (<= X_0 Y_0))", 5, "inputs and outputs together"),
    "several inputs": (HEAD + "(assert (<= (+ X_0 X_1) 1))", 5, "several inputs"),
    "a product": (HEAD + "(assert (<= (* Y_0 Y_1) 1))", 5, "linear expression"),
    "two at once": (HEAD + "(assert (<= X_0 1) (<= X_1 1))", 5, "one expression; got 2"),
    "no upper limit": (HEAD + BOX.replace("(assert (<= X_1 +.5))", "") + Y, 2, "X_1 has no upper limit"),
    "no lower limit": (HEAD + BOX.replace("(assert (>= X_0 0))", "") + Y, 1, "X_0 has no lower limit"),
    "too many choices": (
        HEAD + BOX + "(assert (and " + " ".join(["(or (<= Y_0 0) (<= Y_1 0))"] * 20) + "))",
        6,
        "1,048,576",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_line(name):
    text, line, words = WRONG[name]
    with pytest.raises(InputError) as caught:
        parse(text, "a.vnnlib")
    assert str(caught.value).startswith(f"a.vnnlib, line {line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "declares no X_0"),
        ("(declare-const X_0 Real)", "declares no Y_0"),
        (HEAD + BOX, "asserts nothing of the outputs"),
        (HEAD + "(assert " + "(and " * 20_000 + "(<= X_0 1)" + ")" * 20_001, "too deep"),
    ],
    ids=["nothing", "no outputs", "no assertion", "too deep"],
)
def test_what_is_missing_is_said(text, words):
    with pytest.raises(InputError, match=words):
        parse(text)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    (tmp_path / "b").write_bytes(b"\x1f\x8bno gzip")
    for name in ("a", "b", "c"):
        with pytest.raises(InputError, match="cannot be read"):
            read_vnnlib(tmp_path / name)
