import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from trustbound.metrics.scoring import brier, nll


def batch(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = 2 * torch.randn(300, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (300,), generator=generator)


@pytest.mark.parametrize("classes", [2, 5])
def test_scores_equal_scikit_learn(classes):
    logits, labels = batch(classes)
    probabilities = logits.softmax(1).numpy()
    expected = log_loss(labels.numpy(), probabilities, labels=list(range(classes)))
    assert nll(logits, labels).mean().item() == pytest.approx(expected, rel=1e-12)
    one_hot = np.eye(classes)[labels.numpy()]
    np.testing.assert_allclose(brier(logits, labels).numpy(), ((probabilities - one_hot) ** 2).sum(1), rtol=1e-12)
    if classes == 2:
        one_sided = brier_score_loss(labels.numpy(), probabilities[:, 1])
        assert brier(logits, labels).mean().item() == pytest.approx(2 * one_sided, rel=1e-12)


def test_honest_probabilities_score_best():
    truth = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    labels = torch.arange(3)
    for score in (nll, brier):
        honest = (truth * score(truth.log().expand(3, 3), labels)).sum()
        for other in ([0.5, 0.4, 0.1], [0.8, 0.15, 0.05], [0.6, 0.1, 0.3]):
            claimed = torch.tensor(other, dtype=torch.float64).log().expand(3, 3)
            assert (truth * score(claimed, labels)).sum() > honest


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits_stay_finite(dtype):
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype)
    labels = torch.tensor([0, 0])
    assert nll(logits, labels).tolist() == [0.0, 2e4]
    assert brier(logits, labels).tolist() == [0.0, 2.0]
    assert nll(logits, labels).dtype == brier(logits, labels).dtype == dtype
