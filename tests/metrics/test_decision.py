"""Classes are read from the order of the logits, whatever their scale, shift and dtype."""

import pytest
import torch

from trustbound.metrics.decision import NO_ANSWER, answered, decide

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 3.75], [-1.0, -1.5, -0.5]], dtype=torch.float64)


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-4, 1.0, 1e4, 1e9, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_scale_of_the_logits_decides_nothing(scale, dtype):
    prediction, confidence = decide((scale * LOGITS).to(dtype))
    assert prediction.tolist() == [0, 1, 2]
    assert confidence.dtype == torch.float64
    assert bool((confidence >= 1 / 3).all())


def test_a_shift_decides_nothing_that_its_rounding_leaves():
    shifted = (LOGITS + 1e3).float()
    assert decide(shifted)[0].tolist() == [0, 1, 2]
    assert decide(shifted)[1].tolist() == pytest.approx(decide(LOGITS)[1].tolist(), rel=1e-3)


def test_confidence_is_the_float64_softmax():
    _, confidence = decide((1e-9 * LOGITS).float())
    assert torch.allclose(confidence, (1e-9 * LOGITS).float().double().softmax(1).amax(1), rtol=0, atol=0)
    assert bool((confidence > 1 / 3).all())  # in float32 all three would be 1/3


def test_equal_logits_go_to_the_first():
    assert decide(torch.zeros(2, 5))[0].tolist() == [0, 0]


def test_what_is_no_answer():
    rows = {
        (1.0, 0.0): True,
        (1.0, -torch.inf): True,  # a class of probability 0
        (torch.nan, 0.0): False,
        (0.0, torch.nan): False,
        (torch.inf, 0.0): False,  # no softmax is defined
        (torch.inf, torch.inf): False,
        (-torch.inf, -torch.inf): False,
    }
    outputs = torch.tensor(list(rows))
    assert answered(outputs).tolist() == list(rows.values())
    prediction, confidence = decide(outputs)
    assert (prediction != NO_ANSWER).tolist() == list(rows.values())
    assert (~confidence.isnan()).tolist() == list(rows.values())
