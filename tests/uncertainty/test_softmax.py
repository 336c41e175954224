import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from trustbound.errors import InputError
from trustbound.metrics.entropy import mixture_log_probabilities
from trustbound.record.codec import from_document, to_document
from trustbound.record.scores import CalibrationScores
from trustbound.uncertainty.softmax import calibration_scores


def calibrated(n, classes=5, scale=2.0, seed=0):
    """Logits whose softmax is the law that the labels were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, logits.softmax(1).multinomial(1, generator=generator).squeeze(1)


def test_scores_equal_independent_ones():
    logits, labels = calibrated(800)
    found = calibration_scores(logits, labels)
    probabilities = logits.softmax(1).numpy()
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels.numpy()
    assert found.n == 800
    assert found.accuracy == pytest.approx(correct.mean())
    assert found.nll == pytest.approx(log_loss(labels.numpy(), probabilities, labels=list(range(5))))
    assert found.brier == pytest.approx(((probabilities - np.eye(5)[labels.numpy()]) ** 2).sum(1).mean())
    assert found.mean_confidence == pytest.approx(confidence.mean())
    assert found.mean_confidence_on_errors == pytest.approx(confidence[~correct].mean())
    assert found.auroc == pytest.approx(roc_auc_score(correct, confidence))
    running = np.cumsum(~correct[np.argsort(-confidence)]) / np.arange(1, 801)
    assert found.aurc == pytest.approx(running.mean())
    assert sum(row.count for row in found.reliability.bins) == 800
    assert found.risk_coverage.risk[-1] == pytest.approx(1 - found.accuracy)
    assert len(found.risk_coverage.risk) == 100


def test_calibrated_and_overconfident_networks_are_told_apart():
    logits, labels = calibrated(3000)
    honest, boastful = calibration_scores(logits, labels), calibration_scores(4 * logits, labels)
    assert honest.ece_interval[0] == 0.0
    assert boastful.ece_interval[0] > 0.1 > honest.ece_interval[1]
    assert boastful.nll > honest.nll
    assert boastful.brier > honest.brier
    assert boastful.accuracy == honest.accuracy
    assert boastful.auroc == pytest.approx(honest.auroc, abs=0.05)


def test_saturated_float32_logits_lose_no_example():
    """softmax(200 z) is exactly 1.0: these examples belong to the last bin, and the NLL stays finite."""
    logits, labels = calibrated(500)
    found = calibration_scores((200 * logits).float(), labels)
    assert sum(row.count for row in found.reliability.bins) == 500
    assert found.reliability.bins[-1].count > 450
    assert np.isfinite(found.nll)
    assert found.ece == pytest.approx(found.mean_confidence - found.accuracy, abs=0.02)


def test_order_of_examples_and_dtype():
    logits, labels = calibrated(300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    one, other = calibration_scores(logits, labels), calibration_scores(logits[order], labels[order])
    assert one.reliability == other.reliability
    assert one.ece == other.ece
    assert one.ece_interval == other.ece_interval
    assert one.risk_coverage == other.risk_coverage
    assert one.nll == pytest.approx(other.nll, rel=1e-12)
    assert calibration_scores(logits.float(), labels) == calibration_scores(logits.float().double(), labels)


def test_a_network_without_errors_has_no_confidence_on_them():
    logits = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    found = calibration_scores(logits, torch.tensor([0, 1]))
    assert found.mean_confidence_on_errors is None
    assert found.auroc is None
    assert found.aurc == 0.0
    assert from_document(CalibrationScores, to_document(found)) == found


def test_ensembles_pass_through_their_mixture():
    logits, labels = calibrated(200)
    members = torch.stack((logits, logits.flip(1)))
    found = calibration_scores(mixture_log_probabilities(members), labels)
    mean = members.softmax(-1).mean(0)
    assert found.mean_confidence == pytest.approx(mean.amax(1).mean().item())


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), "C >= 2"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "N >= 1"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), "floating"),
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64), r"got \(3,\) and \(2, 3\)"),
        (torch.tensor([[0.0, torch.nan]]), torch.tensor([0]), "NaN or infinity in 1 of 1 rows"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"0\.\.2; got torch.int64 in \[0, 3\]"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), r"\[-1, 0\]"),
        (torch.zeros(2, 3), torch.tensor([0, 1], dtype=torch.int32), "torch.int32"),
    ],
)
def test_refusals(logits, labels, message):
    with pytest.raises(InputError, match=message):
        calibration_scores(logits, labels)
