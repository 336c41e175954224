import dataclasses
import json
import subprocess
import sys

import pytest
import torch

from trustbound.errors import InputError
from trustbound.record.codec import from_document, to_document
from trustbound.record.scores import UncertaintyReport
from trustbound.uncertainty.assess import assess, split
from trustbound.uncertainty.conformal import Aps, Threshold
from trustbound.uncertainty.registry import METHODS
from trustbound.uncertainty.softmax import calibration_scores


def network(n=1200, classes=5, scale=2.5):
    """An overconfident network, and the logits that an attack of some strength leaves."""
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(n, classes, generator=generator)
    labels = honest.softmax(1).multinomial(1, generator=generator).squeeze(1)
    attacked = scale * honest
    attacked = attacked - 6 * torch.nn.functional.one_hot(labels, classes)
    return scale * honest, labels, attacked


def test_clean_and_attacked_scores():
    logits, labels, attacked = network()
    found = assess(logits, labels, attacked)
    assert found.clean == calibration_scores(logits, labels)
    assert found.attacked == calibration_scores(attacked, labels)
    assert found.n_calibration == found.n_evaluation == 600
    _, held = split(1200, 0.5, 0)
    assert found.temperature.scale
    assert found.temperature.nll_after == pytest.approx(found.scaled_clean.nll)
    assert found.temperature.nll_before == pytest.approx(calibration_scores(logits[held], labels[held]).nll)
    assert found.scaled_clean.ece < found.clean.ece
    scaled = attacked[held].double() / found.temperature.temperature
    assert found.scaled_attacked == calibration_scores(scaled, labels[held])
    for row in found.conformal:
        assert row.n == row.n_calibration == 600
        assert row.coverage_interval[0] <= row.coverage_clean <= row.coverage_interval[1]
        assert row.coverage_interval[0] <= row.level + 1 / 601
        assert row.coverage_interval[1] >= row.level
        assert row.coverage_attacked < row.coverage_clean
        assert row.mean_set_size >= 1


def test_fitted_parts_see_the_calibration_split_only():
    logits, labels, attacked = network()
    _, held = split(1200, 0.5, 3)
    changed = labels.clone()
    changed[held] = (labels[held] + 1) % 5
    one, other = assess(logits, labels, seed=3), assess(logits, changed, seed=3)
    assert one.temperature.temperature == other.temperature.temperature
    assert one.temperature.reason == other.temperature.reason
    assert [row.quantile for row in one.conformal] == [row.quantile for row in other.conformal]
    assert one.conformal[0].coverage_clean != other.conformal[0].coverage_clean
    under = assess(logits, labels, attacked, seed=3)
    assert under.temperature == one.temperature  # attacked inputs are never fitted on
    assert [row.quantile for row in under.conformal] == [row.quantile for row in one.conformal]


def test_unchanged_attacked_logits_change_no_score():
    logits, labels, _ = network()
    found = assess(logits, labels, logits)
    assert found.attacked == found.clean
    assert found.scaled_attacked == found.scaled_clean
    for row in found.conformal:
        assert row.coverage_attacked == row.coverage_clean
        assert row.mean_set_size_attacked == row.mean_set_size


def test_same_call_same_record_and_seeds_matter():
    logits, labels, attacked = network(300)
    state = torch.get_rng_state()
    one = assess(logits, labels, attacked, seed=1)
    assert assess(logits, labels, attacked, seed=1) == one
    assert assess(logits, labels, attacked, seed=2) != one
    assert torch.equal(torch.get_rng_state(), state)


def test_without_attack_and_with_chosen_methods():
    logits, labels, _ = network(300)
    found = assess(logits, labels, scorers=(Aps(level=0.8),), calibration_share=0.3)
    assert found.attacked is None
    assert found.scaled_attacked is None
    assert [(row.method, row.level, row.coverage_attacked) for row in found.conformal] == [("aps", 0.8, None)]
    assert (found.n_calibration, found.n_evaluation) == (90, 210)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_few_examples_give_an_honest_record(n):
    logits, labels, attacked = network(n)
    found = assess(logits, labels, attacked)
    assert found.clean.n == n
    if n == 1:
        assert found.temperature is None
        assert found.conformal == ()
    elif n < 30:
        assert not found.temperature.scale
        assert all(row.coverage_clean == 1.0 for row in found.conformal)  # all classes: no promise otherwise
        assert all(row.mean_set_size == 5 for row in found.conformal)


def test_record_round_trip_through_text():
    logits, labels, attacked = network(200)
    for found in (assess(logits, labels, attacked), assess(logits[:5], labels[:5])):
        text = json.dumps(to_document(found), allow_nan=False)
        assert from_document(UncertaintyReport, json.loads(text)) == found
        assert dataclasses.is_dataclass(found)


def test_split_is_a_partition():
    for n in (1, 2, 7, 100):
        for share in (0.1, 0.5, 0.9):
            one, other = split(n, share, 5)
            assert sorted(one.tolist() + other.tolist()) == list(range(n))
            assert len(one) == round(n * share)
    assert split(100, 0.5, 0)[0].tolist() != split(100, 0.5, 1)[0].tolist()


def test_refusals():
    logits, labels, attacked = network(20)
    with pytest.raises(InputError, match=r"`calibration_share`.*got 1.0"):
        assess(logits, labels, calibration_share=1.0)
    with pytest.raises(InputError, match=r"shape of `logits`; got \(20, 4\) and \(20, 5\)"):
        assess(logits, labels.clamp_max(3), attacked[:, :4])
    with pytest.raises(InputError, match="`attacked` must be finite"):
        assess(logits, labels, attacked * torch.nan)


def test_registry_rows_exist_and_import_no_torch():
    assert all(callable(METHODS.load(name)) for name in METHODS.names)
    assert (Threshold().name, Aps().name) == METHODS.names[2:]
    code = "import trustbound.uncertainty.registry, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
