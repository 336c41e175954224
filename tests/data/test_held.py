"""`load_data` on what is in memory: datasets, loaders, pairs and frames, each beside the set made by hand."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import trustbound as tb
from trustbound.errors import InputError

INPUTS = torch.rand(12, 1, 3, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


@pytest.mark.parametrize(
    "held",
    [
        (INPUTS, LABELS),
        [INPUTS.numpy(), LABELS.numpy()],
        TensorDataset(INPUTS, LABELS),
        DataLoader(TensorDataset(INPUTS, LABELS), batch_size=5),
    ],
    ids=["tensors", "arrays", "Dataset", "DataLoader"],
)
def test_what_is_held_is_what_was_given(held):
    data = tb.load_data(held)
    assert torch.equal(data.inputs, INPUTS)
    assert torch.equal(data.labels, LABELS)
    few = tb.load_data(held, limit=6)
    assert few.labels.bincount().tolist() == [2, 2, 2]


def test_a_frame_is_read_as_its_file_is(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {
            "length": np.float32([0.1, 0.5, 3.0, -2.0]),
            "count": [1, 2, 3, 5],
            "old": [True, False, True, True],
            "target": ["setosa", "virginica", "setosa", "versicolor"],
        }
    )
    frame.assign(old=frame["old"].astype(int)).to_csv(tmp_path / "frame.csv", index=False)
    read, held = tb.load_data(tmp_path / "frame.csv"), tb.load_data(frame)
    assert torch.equal(read.inputs, held.inputs)
    assert torch.equal(read.labels, held.labels)
    assert read.class_names == held.class_names
    assert held.columns.names == ("length", "count", "old")
    assert np.array_equal(np.asarray(read.box.high), np.asarray(held.box.high))


def test_cells_that_are_no_numbers_are_named_by_row_and_column():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"length": [0.1, None, 2.0], "label": [0, 1, 0]})
    with pytest.raises(InputError, match=r"line 1, column 'length'"):
        tb.load_data(frame)
    with pytest.raises(InputError, match="no column 'species'"):
        tb.load_data(frame, label_column="species")


@pytest.mark.parametrize(
    "held",
    [7, None, (INPUTS,), (INPUTS, LABELS, LABELS), {1, 2}, object()],
    ids=["number", "None", "one", "three", "set", "object"],
)
def test_what_is_no_data_is_refused_in_a_sentence(held):
    with pytest.raises(InputError):
        tb.load_data(held)


def test_options_of_files_are_refused_for_what_is_in_memory():
    with pytest.raises(InputError, match="split"):
        tb.load_data((INPUTS, LABELS), split="test")
    with pytest.raises(InputError, match="label_column"):
        tb.load_data((INPUTS, LABELS), label_column="label")
