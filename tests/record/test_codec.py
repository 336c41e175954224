"""Records survive JSON: what is written is read back equal, and damage is named."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustbound.errors import RecordError
from trustbound.record.audit import (
    AuditRecord,
    Bracket,
    Check,
    Curve,
    DataFacts,
    ExampleRow,
    Exhibit,
    ModelFacts,
    StageFacts,
)
from trustbound.record.codec import from_document, to_document
from trustbound.record.cost import Cost
from trustbound.record.migrations import RECORD_SCHEMA
from trustbound.record.record_file import json_view, read_record
from trustbound.record.scores import (
    CalibrationScores,
    ConformalScore,
    Reliability,
    ReliabilityBin,
    RiskCoverage,
    TemperatureFit,
    UncertaintyReport,
)

FLOATS = st.floats(allow_nan=False)
TEXT = st.text(max_size=8)
COUNTS = st.integers(0, 2**40)
PAIRS = st.tuples(FLOATS, FLOATS)
#: What a task keeps of an example: as JSON holds it.
PLAIN = st.none() | TEXT | st.lists(st.floats(-1e9, 1e9), max_size=2)


def some(kind, **given):
    """Any record of a kind, field by field from its annotations; NaN apart, which has no value to come back to."""
    import dataclasses
    import typing

    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)
    return st.builds(
        kind, **{one.name: given[one.name] if one.name in given else of(hints[one.name]) for one in fields}
    )


def of(hint):
    """A strategy for one annotation."""
    import types
    import typing

    plain = {float: FLOATS, int: COUNTS, str: TEXT, bool: st.booleans(), Cost: COSTS, typing.Any: PLAIN}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*[st.none() if part is type(None) else of(part) for part in arguments])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return st.lists(of(arguments[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*map(of, arguments))
    if origin is dict:
        return st.dictionaries(TEXT, of(arguments[1]), max_size=2)
    return some(hint)


COSTS = st.builds(Cost, COUNTS, COUNTS, COUNTS, FLOATS)
KINDS = (Bracket, Check, Curve, DataFacts, ExampleRow, Exhibit, ModelFacts, StageFacts, Cost)
SCORES = (
    UncertaintyReport,
    ConformalScore,
    CalibrationScores,
    Reliability,
    ReliabilityBin,
    RiskCoverage,
    TemperatureFit,
)


def through_json(record):
    """Written to text and read back."""
    text = json.dumps(to_document(record), allow_nan=False)
    return from_document(type(record), json.loads(text))


@pytest.mark.parametrize("kind", [*KINDS, *SCORES], ids=lambda kind: kind.__name__)
def test_every_part_comes_back_equal(kind):
    @settings(max_examples=15, deadline=None)
    @given(of(kind))
    def check(record):
        assert through_json(record) == record

    check()


@settings(max_examples=20, deadline=None)
@given(some(AuditRecord, schema=st.just(RECORD_SCHEMA)))
def test_a_whole_audit_comes_back_equal(record):
    assert through_json(record) == record
    view = json.loads(json.dumps(json_view(record), allow_nan=False))
    assert list(view)[:7] == [
        "schema",
        "clean_accuracy",
        "brackets",
        "calibration",
        "checks",
        "cost",
        "exit_code",
    ]
    assert view["exit_code"] == record.exit_code
    assert [one["threat"] for one in view["brackets"]] == [one.threat for one in record.brackets]
    assert view["cost"]["forwards"] == record.cost.forwards
    assert (view["calibration"] is None) == (record.uncertainty is None)
    assert list(view["calibrations"]) == list(record.doubts)
    if record.uncertainty is not None:
        # What the scores' own reading gives, not the record's own text: the view may not invent numbers.
        assert view["calibration"]["clean"]["ece"] == to_document(record.uncertainty.clean)["ece"]
        assert (view["calibration"]["attacked"] is None) == (record.uncertainty.attacked is None)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_comes_back(value):
    check = Check(name="a", verdict="FAIL", severity="error", value=value, finding="")
    assert through_json(check).value == value


def test_nan_becomes_none_where_there_may_be_none_and_comes_back_where_there_must_be_a_number():
    check = Check(name="a", verdict="FAIL", severity="error", value=math.nan, finding="")
    assert through_json(check).value is None
    assert math.isnan(through_json(Cost(seconds=math.nan)).seconds)


def valid():
    model = ModelFacts(
        name="m",
        sha256="a",
        parameters=1,
        classes=2,
        input_shape=(2,),
        box=(0.0, 1.0),
        device="cpu",
        dtype="float32",
    )
    data = DataFacts(name="d", sha256="b", n=1, class_names=(), indices=(0,))
    return AuditRecord(
        command="c",
        created="now",
        versions={},
        seed=0,
        budget="quick",
        model=model,
        data=data,
        clean_accuracy=1.0,
        clean_interval=(0.0, 1.0),
        brackets=(),
        steps=(),
        curves=(),
        doubts={},
        checks=(),
        gallery=(),
        examples=(),
        cost=Cost(),
        backward_cost=1.0,
        exit_code=0,
    )


@pytest.mark.parametrize(
    "damage",
    [
        {"schema": None},
        {"schema": "2"},
        {"schema": True},
        {"schema": 0},
        {"schema": 1},
        {"model": None},
        {"model": "text"},
        {"brackets": 5},
        {"brackets": [{"threat": "linf:0.1"}]},
        {"clean_interval": [0.0]},
        {"data": {}},
        {"cost": [1, 2]},
        {"versions": 3},
        {"doubts": {"linf:0.1": {"n": 3}}},
    ],
    ids=str,
)
def test_damage_is_a_record_error(damage, tmp_path):
    document = {**to_document(valid()), **damage}
    (tmp_path / "record.json").write_text(json.dumps(document))
    with pytest.raises(RecordError, match=r"damaged.* again"):
        read_record(tmp_path)


def test_a_newer_record_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({"schema": RECORD_SCHEMA + 1, "unheard": "of"}))
    with pytest.raises(RecordError) as refused:
        read_record(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path / 'record.json'} has schema {RECORD_SCHEMA + 1}, which a newer trustbound wrote, and this one "
        f"knows schemas up to {RECORD_SCHEMA}: update trustbound to go on with it."
    )


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"', b"\xff\xfe\x00"])
def test_a_file_that_is_no_record_is_a_record_error(content, tmp_path):
    (tmp_path / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecordError):
        read_record(tmp_path)


def test_a_missing_record_says_what_to_do(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RecordError, match="command again"):
            read_record(place)


def test_a_record_is_read_from_its_directory_or_file(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps(to_document(valid())))
    assert read_record(tmp_path) == read_record(tmp_path / "record.json") == valid()
