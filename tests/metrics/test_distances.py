import numpy as np
import pytest
import torch

from trustbound.errors import InputError
from trustbound.metrics.distances import NORMS, distance, size

ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
def test_size_equals_numpy_in_float64(norm, dtype):
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(30, 3, 5, 5, generator=generator).to(dtype)
    step[:, 1] = 0
    expected = np.linalg.norm(step.double().numpy().reshape(30, -1), ord=ORDERS[norm], axis=1)
    found = size(step, norm)
    assert found.dtype == torch.float64
    assert found.shape == (30,)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-13)


def test_distance_subtracts_in_float64():
    generator = torch.Generator().manual_seed(1)
    inputs, adversarial = (
        torch.rand(500, 1, generator=generator),
        torch.rand(500, 1, generator=generator) ** 8,
    )
    found = distance(adversarial, inputs, "linf")
    assert torch.equal(found, (adversarial.double() - inputs.double()).abs().squeeze(1))
    assert (found != (adversarial - inputs).abs().squeeze(1).double()).any()
    integers = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert distance(integers.flip(1), integers, "linf").item() == 255.0  # uint8 would wrap to 1


def test_huge_tiny_and_undefined_sizes():
    assert size(torch.tensor([[3e38, 3e38]]), "l2").item() == pytest.approx(3e38 * 2**0.5, rel=1e-6)
    assert size(torch.tensor([[1e-38, 0.0]]), "l2").item() == pytest.approx(1e-38, rel=1e-6)
    for norm in NORMS:
        assert size(torch.tensor([[torch.nan, 1.0]]), norm).isnan().item()
        assert size(torch.zeros(2, 3), norm).tolist() == [0.0, 0.0]


def test_refusals():
    with pytest.raises(InputError, match="one of l0, l1, l2, linf; got 'l3'"):
        size(torch.zeros(1, 1), "l3")
    with pytest.raises(InputError, match=r"one shape; got \(1, 2\) and \(2, 1\)"):
        distance(torch.zeros(1, 2), torch.zeros(2, 1), "l2")
