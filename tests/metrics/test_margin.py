import pytest
import torch

from trustbound.metrics.margin import margin, pick, rounding_error, runner_up, targeted_margin, top_two

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def brute_margin(row, label):
    return row[label] - max(value for index, value in enumerate(row) if index != label)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 7, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, 7, (200,), generator=generator)


def test_margin_is_label_minus_best_other(batch):
    logits, labels = batch
    expected = [brute_margin(row, label) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)]
    assert margin(logits, labels).tolist() == expected
    assert targeted_margin(logits, labels).tolist() == expected


def test_margin_sign_is_correctness(batch):
    logits, labels = batch
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(1) == labels)
    assert (margin(logits, labels) > 0).any()
    assert (margin(logits, labels) < 0).any()


def test_gradient_is_plus_one_at_the_label_and_minus_one_at_its_rival():
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 3.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([0, 2])).sum(), logits)
    assert gradient.tolist() == [[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]]


def test_two_classes_and_infinite_logits():
    assert margin(torch.tensor([[1.0, 4.0]]), torch.tensor([0])).item() == -3.0
    masked = torch.tensor([[1.0, -torch.inf, 0.5]])
    assert margin(masked, torch.tensor([0])).item() == 0.5
    assert margin(torch.tensor([[torch.nan, 1.0]]), torch.tensor([1])).isnan().item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_and_shape_are_kept(dtype):
    logits, labels = torch.tensor([[1.0, 3.0, 2.0]], dtype=dtype), torch.tensor([1])
    for value in (margin(logits, labels), targeted_margin(logits, labels)):
        assert value.dtype == dtype
        assert value.shape == (1,)
    assert (
        rounding_error(logits).dtype == torch.float64
    )  # of a half precision logit it may be below its smallest number
    assert rounding_error(logits).shape == (1,)
    assert runner_up(logits, labels).dtype == torch.int64


def test_rows_do_not_see_their_neighbours(batch):
    logits, labels = batch
    together = margin(logits.float(), labels)
    alone = torch.cat([margin(logits[i : i + 1].float(), labels[i : i + 1]) for i in range(len(labels))])
    assert torch.equal(together, alone)


def test_ties_of_rivals_go_to_the_lowest_class_in_every_position():
    logits = torch.zeros(1000, 10)
    assert (runner_up(logits, torch.zeros(1000, dtype=torch.int64)) == 1).all()
    assert (runner_up(logits, torch.full((1000,), 5)) == 0).all()


def test_top_two_are_the_two_largest(batch):
    logits, _ = batch
    values, classes = top_two(logits)
    expected = logits.topk(2, 1)
    assert torch.equal(values, expected.values)
    assert torch.equal(classes, expected.indices)


def test_pick_takes_one_entry_per_row(batch):
    logits, labels = batch
    assert torch.equal(pick(logits, labels), logits[torch.arange(200), labels])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rounding_error_covers_a_margin_recomputed_in_float64(dtype):
    generator = torch.Generator().manual_seed(2)
    exact = 30 * torch.randn(5000, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 5, (5000,), generator=generator)
    rounded = exact.to(dtype)
    difference = (margin(rounded, labels).double() - margin(exact, labels)).abs()
    assert (difference <= rounding_error(rounded).double()).all()
    if dtype != torch.float64:  # and it is no wild exaggeration
        assert (difference > rounding_error(rounded).double() / 64).any()
    assert rounding_error(rounded)[0] == 4 * torch.finfo(dtype).eps * rounded[0].double().abs().max()


def test_a_rounding_error_is_that_of_the_coarser_precision_and_blind_to_scale():
    logits = torch.tensor([[3.0, 1.0, -2.0]])
    assert rounding_error(logits, torch.bfloat16) == rounding_error(logits.bfloat16())
    assert rounding_error(logits, torch.float64) == rounding_error(logits)
    for scale in (2.0**-30, 2.0**30):
        assert rounding_error(scale * logits) == scale * rounding_error(logits)
    assert rounding_error(torch.tensor([[1.0, -torch.inf]])) == rounding_error(torch.tensor([[1.0, 1.0]]))


def test_below_normal_numbers_the_spacing_is_the_rounding_error():
    exact = torch.tensor([[3.1e-7, 2.6e-7]], dtype=torch.float64)  # float16 has steps of 6e-8 there
    rounded = exact.half()
    gap = (margin(rounded.double(), torch.tensor([0])) - margin(exact, torch.tensor([0]))).abs()
    assert gap <= rounding_error(rounded)
