"""Which class number a text stands for: numbers are numbers, names are names, and nothing is guessed."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trustbound.data import load_data
from trustbound.data.readers.class_index import class_numbers
from trustbound.errors import InputError


def table(path, labels, *, quoted=False):
    rows = [f'{row / max(1, len(labels) - 1)},"{label}"' for row, label in enumerate(labels)]
    path.write_text("\n".join(["a,label", *rows]) + "\n", encoding="utf-8")
    return path


def read(tmp_path, labels):
    return load_data(table(tmp_path / "t.csv", labels), box=(0, 1))


@pytest.mark.parametrize(
    "write",
    [str, lambda n: f"{n}.0", lambda n: f"{n:03d}", lambda n: f"{n:.2e}", lambda n: f" +{n}. "],
    ids=["7", "7.0", "007", "7.00e+00", " +7. "],
)
def test_numbers_are_the_classes_they_say_however_they_are_written(tmp_path, write):
    order = list(range(12))
    random.Random(3).shuffle(order)
    data = read(tmp_path, [write(n) for n in order])
    assert data.labels.tolist() == order
    assert data.class_names is None


def test_spellings_of_one_number_are_one_class(tmp_path):
    assert read(tmp_path, ["1", "1.0", "10", "1e1", "0", "-0.0"]).labels.tolist() == [1, 1, 10, 10, 0, 0]


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["1", "2", "3"], [1, 2, 3], None),  # as they stand: a model of 3 classes refuses the 3
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (["True", "False", "True"], [1, 0, 1], ("false", "true")),
        (["TRUE", "false"], [1, 0], ("false", "true")),
        (["true", "true"], [1, 1], ("false", "true")),
        (["B", "0", "1", "A"], [3, 0, 1, 2], ("0", "1", "A", "B")),
        (["c10", "c2", "c9"], [0, 1, 2], ("c10", "c2", "c9")),
        (["0x1", "0x0"], [1, 0], ("0x0", "0x1")),
    ],
)
def test_names_are_numbered_in_the_order_of_their_characters(tmp_path, labels, numbers, names):
    data = read(tmp_path, labels)
    assert data.labels.tolist() == numbers
    assert data.class_names == names


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["1", "-1", "1"], r"line 3.*whole and count from 0.*got '-1'"),
        (["0", "0.5", "1"], r"line 3.*got '0.5'"),
        (["0", "0.99999999999999999999"], "line 3.*whole"),
        (["0", "1e400"], "line 3.*below 1,000,000"),
        (["0", "20240101"], "line 3.*below 1,000,000"),
        (["0.0", "nan", "1.0"], "line 3.*missing value"),
        (["cat", "NaN"], "line 3.*missing value"),
        (["0", "", "1"], "line 3: the label is empty"),
        (["9", "10", "other"], r"line [23].*looks like a class number.*'other'.*line 4"),
        (["1", "2", "?"], "looks like a class number"),
        (["inf", "0", "-1"], "looks like a class number"),
        (["0", "1_0", "10"], "looks like a class number"),
    ],
)
def test_what_is_no_class_is_refused_with_its_line(tmp_path, labels, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, labels)


def folders(place, names):
    for level, name in enumerate(names):
        (place / name).mkdir(parents=True)
        Image.fromarray(np.full((2, 2), 10 * level, dtype=np.uint8)).save(place / name / "0.png")
    return place


@pytest.mark.parametrize("names", [[str(n) for n in range(12)], ["0", "3", "10"], ["00", "01", "10"], ["7"]])
def test_folders_of_numbers_are_the_classes_they_say(tmp_path, names):
    data = load_data(folders(tmp_path / "set", names))
    read_back = dict(zip((data.inputs[:, 0, 0, 0] * 25.5).round().int().tolist(), data.labels.tolist(), strict=True))
    assert read_back == {level: int(name) for level, name in enumerate(names)}
    assert len(data.class_names) == int(names[-1]) + 1
    for name in names:
        assert data.class_names[int(name)] == name


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["-1", "1"], "the class folder -1.*class_index"),
        (["1", "01"], "own number; got 1"),
        (["9", "10", "background"], "looks like a class number"),
        (["99999999", "0"], "below 1,000,000"),
    ],
)
def test_folders_that_cannot_be_numbered_ask_for_a_class_index(tmp_path, names, said):
    source = folders(tmp_path / "set", names)
    with pytest.raises(InputError, match=said):
        load_data(source)
    index = {name: number for number, name in enumerate(names)}
    assert sorted(load_data(source, class_index=index).labels.tolist()) == list(range(len(names)))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("i.json", '{"a": 0, "b": 1, "a": 2}', "names 'a' twice"),
        ("i.json", '["a", "b", "a"]', "names 'a' twice"),
        ("i.json", '{"0": ["a", "x"], "1": ["a", "y"], "2": "b"}', "names 'a' twice"),
        ("i.json", '{"²": "a", "1": "b"}', "must hold"),
        ("i.json", '{"a": 0, "b": 1000000000000}', "below 1,000,000"),
        ("i.json", "[" * 100_000, "no JSON"),
        ("i.txt", "a 1\nb\n", "on every line or on none; got 'b'"),
        ("i.txt", "a ²\nb 1\n", "on every line or on none"),
        ("i.txt", "a\nb\na\n", "names 'a' twice"),
    ],
)
def test_a_class_index_says_each_thing_once(tmp_path, name, text, said):
    source = folders(tmp_path / "set", ["a", "b"])
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        load_data(source, class_index=tmp_path / name)


def test_a_class_index_reads_names_with_spaces(tmp_path):
    source = folders(tmp_path / "set", ["great dane", "pug"])
    for text in ("great dane 1\npug 0\n", "great dane,1\npug, 0\n", "# order\npug\ngreat dane\n"):
        (tmp_path / "i.txt").write_text(text)
        assert load_data(source, class_index=tmp_path / "i.txt").class_names == ("pug", "great dane")
    (tmp_path / "i.json").write_text(json.dumps(["pug", "great dane"]))
    assert load_data(source, class_index=tmp_path / "i.json").class_names == ("pug", "great dane")


@given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_every_name_gets_one_number_and_its_name_back_or_a_refusal(names):
    try:
        numbers, shown = class_numbers(dict.fromkeys(names, "here"), "Do this.")
    except InputError as error:
        assert "here" in str(error)  # noqa: PT017
        return
    assert set(numbers) == set(names)
    for name, number in numbers.items():
        if name.lower() not in ("true", "false") and len(set(numbers.values())) == len(names):
            assert shown[number] == name


@pytest.mark.parametrize("cell", ["1_000", "٣", "0x10", "1e39", "--1", "1,5", "infinity"])
def test_cells_are_plain_numbers(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f'a,label\n"{cell}",0\n0.5,1\n', encoding="utf-8")
    with pytest.raises(InputError, match="line 2, column 'a': a finite number"):
        load_data(tmp_path / "t.csv")


def test_a_giant_field_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,label\n" + "9" * 200_000 + ",0\n0.5,1\n")
    with pytest.raises(InputError, match="field larger"):
        load_data(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a" * 200_000 + ",label\n1,0\n0.5,1\n")
    with pytest.raises(InputError, match="field larger"):
        load_data(tmp_path / "t.csv")
