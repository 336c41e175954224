"""LabelledSet: what comes out is what went in, in the box; what cannot be used is refused."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from trustbound.data import LabelledSet, overlap
from trustbound.data.stratified import draw_stratified
from trustbound.errors import InputError
from trustbound.record.box import Box


def test_uint8_is_scaled_as_value_over_255_bit_for_bit():
    raw = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    data = LabelledSet(raw, torch.zeros(16, dtype=torch.int64))
    assert data.inputs.dtype == torch.float32
    assert torch.equal(data.inputs, raw.float() / 255)
    assert torch.equal(data.batch([3, 1]), raw[[3, 1]].float() / 255)
    assert data._stored.dtype == torch.uint8
    assert torch.equal(data._stored, raw), "reading must not change what is kept"


def test_uint8_reaches_a_box_per_feature_exactly_at_its_ends():
    low, high = np.array([-1.0, 0.1]), np.array([2.0, 0.3])
    data = LabelledSet(np.array([[0, 0], [255, 255], [51, 51]], dtype=np.uint8), [0, 1, 0], box=(low, high))
    expected = torch.from_numpy(low + np.array([[0.0], [1.0], [0.2]]) * (high - low)).float()
    assert torch.allclose(data.inputs, expected, atol=1e-7)
    assert bool((data.inputs <= torch.tensor(high).float()).all())
    assert torch.equal(data.inputs[1], torch.tensor(high).float())


def test_take_remembers_original_rows_through_two_steps():
    data = LabelledSet(torch.rand(10, 2), list(range(10)), class_names=[f"c{i}" for i in range(10)])
    part = data.take([7, 3, 9]).take(torch.tensor([2, 0]))
    assert part.indices.tolist() == [9, 7]
    assert part.labels.tolist() == [9, 7]
    assert torch.equal(part.inputs, data.inputs[[9, 7]])
    assert part.class_names == data.class_names


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
    st.floats(0.0, 1.1),
    st.integers(0, 2**31),
)
@example([1, 1, 1], 0.67, 0)
@example([7, 7, 7, 2], 0.5, 1)
def test_stratified_keeps_every_class_share_to_one(counts, share, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    limit = max(1, int(share * len(labels)))
    rows = draw_stratified(labels, limit, seed)
    size = min(limit, len(labels))
    assert len(rows) == size == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    for label in np.unique(labels):
        fair = size * (labels == label).mean()
        assert abs((labels[rows] == label).sum() - fair) < 1
    assert np.array_equal(rows, draw_stratified(labels, limit, seed))


def test_stratified_depends_on_the_seed_and_leaves_global_generators_alone():
    data = LabelledSet(torch.rand(400, 1), torch.arange(400) % 4)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    draws = {tuple(data.stratified(40, seed).indices.tolist()) for seed in range(5)}
    assert len(draws) == 5
    assert np.array_equal(np.random.get_state()[1], numpy_before)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_sha256_follows_content_and_order_but_not_the_name():
    inputs, labels = torch.rand(5, 3), torch.arange(5)
    base = LabelledSet(inputs, labels)
    assert base.sha256 == LabelledSet(inputs.clone(), labels, name="other").sha256
    others = [
        LabelledSet(inputs.flip(0), labels.flip(0)),
        LabelledSet(inputs, labels.flip(0)),
        LabelledSet(inputs, labels, box=(0, 2)),
        base.take([0, 1, 2]),
    ]
    assert len({base.sha256, *(one.sha256 for one in others)}) == 5


def test_eight_bit_lattice_is_recognised_and_only_the_lattice():
    lattice = torch.randint(0, 256, (50, 7)) / 255
    assert LabelledSet(lattice, torch.zeros(50).long()).eight_bit
    off = lattice.clone()
    off[49, 6] = 10.4 / 255
    assert not LabelledSet(off, torch.zeros(50).long()).eight_bit
    assert LabelledSet(lattice * 3 - 1, torch.zeros(50).long(), box=(-1, 2)).eight_bit


def _set(**changes):
    given_ = {"inputs": torch.rand(4, 3), "labels": torch.tensor([0, 1, 2, 0])}
    given_.update(changes)
    return LabelledSet(**given_)


def _with(row, value):
    inputs = torch.rand(4, 3)
    inputs[row, 1] = value
    return inputs


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"inputs": torch.randn(64, 3, 8, 8) * 3, "labels": torch.zeros(64).long()},
            r"box \[0, 1\]; got \[-",
        ),
        ({"inputs": _with(2, float("nan"))}, "NaN or infinite values, the first in row 2"),
        ({"inputs": _with(1, float("inf"))}, "finite"),
        ({"inputs": torch.rand(3, 3)}, "got 3 and 4"),
        ({"inputs": torch.rand(4)}, r"shape \(B, \*F\)"),
        ({"inputs": torch.ones(4, 3, dtype=torch.int64)}, "uint8 .* or floating point"),
        ({"inputs": "picture.png"}, "str"),
        ({"inputs": torch.rand(0, 3), "labels": torch.zeros(0).long()}, "at least 1 example"),
        ({"inputs": torch.rand(4, 0)}, "at least one feature"),
        ({"labels": torch.tensor([0, 1, -1, 0])}, "-1 at row 2"),
        ({"labels": torch.tensor([0.0, 1.0, 2.0, 0.0])}, "float32"),
        ({"labels": torch.tensor([True, False, True, True])}, "bool"),
        ({"labels": torch.eye(4).long()}, r"argmax\(1\)"),
        ({"class_names": ["a", "b"]}, "2 names and a label 2"),
        ({"box": (np.zeros(2), np.ones(2))}, "broadcast"),
        ({"box": (1.0, 0.0)}, "low < high"),
        ({"indices": [1, 2]}, "4 whole row numbers"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_clear_word(changes, said):
    with pytest.raises(InputError, match=said):
        _set(**changes)


def test_rounding_outside_the_box_is_clamped_and_more_is_refused():
    data = LabelledSet(torch.tensor([[1.0 + 4e-7, -3e-7]]), [0])
    assert data.inputs.tolist() == [[1.0, 0.0]]
    with pytest.raises(InputError, match="must lie in the box"):
        LabelledSet(torch.tensor([[1.0 + 1e-5, 0.0]]), [0])


def test_labels_beyond_the_model_are_counted():
    data = _set()
    data.check_labels(3)
    with pytest.raises(InputError, match=r"0\.\.1 for a model with 2 classes; got 0\.\.2 \(1 of 4"):
        data.check_labels(2)


@pytest.mark.parametrize("rows", [[4], [-1], torch.tensor([0.5]), torch.eye(2).long()])
def test_rows_that_do_not_exist_are_refused(rows):
    with pytest.raises(InputError, match="rows must"):
        _set().batch(rows)


def test_limit_must_be_a_positive_whole_number():
    for limit in (0, -3, 1.5, True):
        with pytest.raises(InputError, match="`limit`"):
            _set().stratified(limit)


def test_overlap_equals_brute_force_and_sees_through_uint8():
    raw = torch.randint(0, 3, (60, 4), dtype=torch.uint8)
    test_raw = torch.randint(0, 3, (40, 4), dtype=torch.uint8)
    expected = [i for i, row in enumerate(test_raw) if bool((raw == row).all(1).any())]
    train = LabelledSet(raw, torch.zeros(60).long())
    test = LabelledSet(test_raw.float() / 255, torch.zeros(40).long())
    assert 0 < len(expected) < 40
    assert overlap(train, test).tolist() == expected
    with pytest.raises(InputError, match="one shape and one box"):
        overlap(train, LabelledSet(test_raw, torch.zeros(40).long(), box=Box(0, 2)))


class _Listed(Dataset):
    """Counts what it decodes, as a folder of pictures would."""

    def __init__(self):
        self.targets = [i % 2 for i in range(20)]
        self.decoded = []

    def __len__(self):
        return 20

    def __getitem__(self, row):
        self.decoded.append(row)
        return torch.full((2,), row / 20), self.targets[row]


class _Renumbered(_Listed):
    """Its list of labels is not what it hands out."""

    def __getitem__(self, row):
        return torch.zeros(2), row // 15


class _Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.tensor([0.1, 0.2]), 1), (np.array([0.3, 0.4], dtype=np.float32), np.int64(0))])


def test_from_dataset_draws_before_it_decodes():
    source = _Listed()
    data = LabelledSet.from_dataset(source, limit=6, seed=3)
    assert len(source.decoded) == 6
    assert data.labels.bincount().tolist() == [3, 3]
    assert torch.equal(data.inputs[:, 0], data.indices / 20)


def test_from_dataset_trusts_the_labels_it_reads_not_the_list():
    data = LabelledSet.from_dataset(_Renumbered(), limit=8)
    assert data.labels.bincount().tolist() == [6, 2], "15 and 5 of 20, not the ten and ten of the list"


def test_from_dataset_reads_loaders_streams_and_pictures():
    from PIL import Image

    tensors = TensorDataset(torch.rand(7, 3), torch.arange(7))
    before = torch.get_rng_state()
    data = LabelledSet.from_dataset(DataLoader(tensors, batch_size=3))
    assert torch.equal(data.inputs, tensors.tensors[0])
    assert data.labels.tolist() == list(range(7))
    LabelledSet.from_dataset(DataLoader(tensors, batch_size=3, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)
    assert LabelledSet.from_dataset(_Stream()).labels.tolist() == [1, 0]
    picture = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    pictures = LabelledSet.from_dataset([(picture, 0)])
    assert pictures.shape == (3, 2, 2)
    assert float(pictures.inputs[0, 1, 0, 1]) == pytest.approx(4 / 255)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([torch.rand(3)], "pair"),
        ([{"image": 1, "label": 2}], "mapping with keys"),
        ([(torch.rand(2), 0), (torch.rand(3), 1)], "one shape"),
        ([], "at least 1 example"),
        (3, "Dataset or DataLoader"),
    ],
)
def test_from_dataset_refuses_what_is_no_pair(source, said):
    with pytest.raises(InputError, match=said):
        LabelledSet.from_dataset(source)


def test_inputs_lie_in_memory_as_their_shape_says():
    pictures = np.zeros((3, 5, 4, 2), dtype=np.uint8).transpose(0, 3, 1, 2)  # channels last, as decoders give them
    data = LabelledSet(pictures, [0, 1, 0])
    assert data.inputs.is_contiguous()
    assert data.batch([2, 0]).is_contiguous()
