"""Any torch Dataset or DataLoader, read into memory once."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from trustbound.data.readers.decoding import flat
from trustbound.data.stratified import draw_stratified
from trustbound.errors import InputError
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Gathered:
    """What was read: inputs (N, *F), labels (N,), and the rows that were drawn, None where everything was read."""

    inputs: Tensor
    labels: Any
    rows: Any
    class_names: Sequence[str] | None
    name: str


def gather(
    source: Any,
    *,
    limit: int | None = None,
    seed: int = 0,
    task: Task | str | None = None,
) -> Gathered:
    """Read (input, label) pairs from a map-style or iterable dataset, or batches from a DataLoader.

    An input may be a tensor, an array or a picture (Pillow, 8 bits; it becomes uint8, channels first). A map-style
    dataset that lists its labels in `targets` is drawn from before anything is decoded; any other source is
    read completely, and drawn from afterwards by the caller.

    Randomness  the global generators of Python, numpy and torch are put back as they were; a shuffling loader
                or augmenting transform still decides what is read, so switch both off for an evaluation.
    Raises      InputError when an item is no (input, label) pair or the inputs differ in shape.

    >>> from torch.utils.data import TensorDataset
    >>> found = gather(TensorDataset(torch.rand(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])))
    >>> found.inputs.shape, found.labels.tolist()
    (torch.Size([6, 2]), [0, 1, 0, 1, 0, 1])
    """
    name = getattr(source, "name", None) or type(getattr(source, "dataset", source)).__name__
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        rows = _listed(source, limit, seed) if parse_task(task).plain else None
        if rows is not None:
            inputs, labels = _stack([source[int(row)] for row in rows])
            if not np.array_equal(labels, np.asarray(source.targets)[rows]):
                rows = None  # a target transform renumbers the classes: proportions need the real labels
        if rows is None:
            inputs, labels = _stack(_items(source))
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    return Gathered(inputs=inputs, labels=labels, rows=rows, class_names=_names(source), name=str(name))


def _names(source: Any) -> Sequence[str] | None:
    names = getattr(getattr(source, "dataset", source), "classes", None)
    plain = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    return names if plain else None


def _listed(source: Any, limit: int | None, seed: int) -> Any:
    """The drawn rows of a dataset that lists its labels, else None."""
    if limit is None or isinstance(source, DataLoader) or not hasattr(source, "__getitem__"):
        return None
    targets = getattr(source, "targets", None)
    if targets is None or np.ndim(targets) != 1 or len(targets) != len(source):
        return None
    return draw_stratified(np.asarray(targets), limit, seed)


def _items(source: Any) -> Iterator[Any]:
    if isinstance(source, DataLoader):
        for batch in source:
            inputs, labels = _pair(batch)
            if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor) or labels.dim() == 0:
                if source.batch_size is None:  # automatic batching is off: the loader yields single items
                    yield inputs, labels
                    continue
                raise InputError(
                    "a DataLoader must yield batches (inputs, labels) of tensors; "
                    f"got {type(inputs).__name__} and {type(labels).__name__}. Use the default collate."
                )
            yield from zip(inputs, labels, strict=True)
    elif hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        yield from (source[row] for row in range(len(source)))
    elif isinstance(source, Iterable):
        yield from source
    else:
        raise InputError(f"a torch Dataset or DataLoader is needed; got {type(source).__name__}")


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item[0], item[1]
    came = f"a mapping with keys {sorted(map(str, item))}" if isinstance(item, dict) else type(item).__name__
    raise InputError(
        f"every item must be a pair (input, label); got {came}. "
        "Wrap the dataset in one whose __getitem__ returns (input, label)."
    )


def _stack(items: Iterable[Any]) -> tuple[Tensor, Any]:
    inputs: list[Tensor] = []
    labels: list[Any] = []
    for item in items:
        one, label = _pair(item)
        inputs.append(_tensor(one))
        labels.append(label.item() if isinstance(label, Tensor) and label.numel() == 1 else label)
        if inputs[-1].shape != inputs[0].shape:
            raise InputError(
                f"every example must have one shape; got {tuple(inputs[0].shape)} at row 0 and "
                f"{tuple(inputs[-1].shape)} at row {len(inputs) - 1}. Resize or crop in the dataset."
            )
    if not inputs:
        raise InputError("a labelled set needs at least 1 example; the dataset gave none")
    return torch.stack(inputs), np.asarray(labels)


def _tensor(one: Any) -> Tensor:
    if isinstance(one, Tensor):
        return one.detach().cpu()
    if hasattr(one, "getbands"):  # a Pillow picture: palettes and alpha are no channels
        array = np.asarray(flat(one, "a picture of the dataset"))
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return torch.from_numpy(np.array(array))
    return torch.from_numpy(np.array(one))
