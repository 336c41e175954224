import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trustbound.errors import RecordError
from trustbound.record.codec import from_document, to_document
from trustbound.record.scores import (
    CalibrationScores,
    ConformalScore,
    Reliability,
    ReliabilityBin,
    RiskCoverage,
    TemperatureFit,
    UncertaintyReport,
)

numbers = st.floats(allow_nan=True, allow_infinity=True)
intervals = st.tuples(st.floats(0, 1), st.floats(0, 1))
counts = st.integers(0, 10**9)
bins = st.builds(
    ReliabilityBin,
    low=numbers,
    high=numbers,
    count=counts,
    confidence=st.none() | numbers,
    accuracy=st.none() | numbers,
    interval=intervals,
)
curves = st.builds(
    RiskCoverage,
    coverage=st.lists(st.floats(0, 1), max_size=4),
    risk=st.lists(st.floats(0, 1), max_size=4),
)
scores = st.builds(
    CalibrationScores,
    n=counts,
    accuracy=numbers,
    nll=numbers,
    brier=numbers,
    ece=numbers,
    ece_debiased=numbers,
    ece_interval=intervals,
    mean_confidence=numbers,
    mean_confidence_on_errors=st.none() | numbers,
    auroc=st.none() | numbers,
    aurc=numbers,
    aurc_excess=numbers,
    reliability=st.builds(Reliability, bins=st.lists(bins, max_size=3)),
    risk_coverage=curves,
)
texts = st.text(max_size=8) | st.sampled_from(["inf", "-inf", "nan"])
temperatures = st.builds(
    TemperatureFit,
    temperature=st.none() | numbers,
    nll_before=numbers,
    nll_after=numbers,
    ece_before=numbers,
    ece_after=numbers,
    scale=st.booleans(),
    reason=texts,
)
conformals = st.builds(
    ConformalScore,
    method=texts,
    level=st.floats(0, 1),
    n_calibration=counts,
    n=counts,
    quantile=numbers,
    coverage_clean=numbers,
    coverage_interval=intervals,
    mean_set_size=numbers,
    coverage_attacked=st.none() | numbers,
    coverage_interval_attacked=st.none() | intervals,
    mean_set_size_attacked=st.none() | numbers,
)
assessments = st.builds(
    UncertaintyReport,
    n_calibration=counts,
    n_evaluation=counts,
    clean=scores,
    attacked=st.none() | scores,
    temperature=st.none() | temperatures,
    scaled_clean=st.none() | scores,
    scaled_attacked=st.none() | scores,
    conformal=st.lists(conformals, max_size=2),
)


@settings(deadline=None, max_examples=150)
@given(st.one_of(bins, curves, scores, temperatures, conformals, assessments))
def test_json_round_trip(record):
    text = json.dumps(to_document(record), allow_nan=False)  # no NaN, no Infinity: any reader can read it
    again = from_document(type(record), json.loads(text))
    assert again == record
    assert hash(again) == hash(record)
    assert to_document(again) == to_document(record)


def test_undefined_is_none_and_infinite_is_written_out():
    fit = TemperatureFit(
        temperature=math.nan,
        nll_before=math.inf,
        nll_after=-math.inf,
        ece_before=0.0,
        ece_after=0.0,
        scale=True,
        reason="inf",
    )
    assert fit.temperature is None
    assert fit.applied == 1.0
    document = to_document(fit)
    assert (document["temperature"], document["nll_before"], document["nll_after"]) == (None, "inf", "-inf")
    assert from_document(TemperatureFit, document).nll_before == math.inf
    assert from_document(TemperatureFit, document).reason == "inf"


def test_missing_fields_are_refused_by_name():
    with pytest.raises(RecordError, match=r"RiskCoverage lacks risk: .* again"):
        from_document(RiskCoverage, {"coverage": [1.0], "loss": [1.0]})


@pytest.mark.parametrize(("module", "free"), [("trustbound.record.scores", True), ("torch", False)])
def test_records_import_no_torch(module, free):
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert (subprocess.run([sys.executable, "-c", code], check=False).returncode == 0) is free
