"""Labelled examples in memory: kept as they came, handed out as float32 in the box."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trustbound.data.columns import Columns
from trustbound.data.stratified import draw_stratified
from trustbound.errors import InputError
from trustbound.metrics.in_box import outside
from trustbound.record.box import Box, Limit
from trustbound.tasks.classification import CLASSIFICATION
from trustbound.tasks.naming import parse_task
from trustbound.tasks.task import Task


class LabelledSet:
    """Examples with their classes, checked once and never changed afterwards.

    Parameters
        inputs       (B, *F) tensor or array. uint8 stays uint8 and is scaled to the box when it is read,
                     value / 255 · (high - low) + low; floats must lie in the box already.
        labels       (B,) class numbers, 0 or above; of another task what that takes, as in `tasks.registry`.
        box          the valid inputs (low, high), a number or one per feature.
        class_names  one per class, in the order of the labels.
        name         what records and tables call the set, e.g. "mnist/test".
        indices      (B,) row numbers in the set it was taken from; counted from 0 unless given.
        task         what the labels are of, classification unless given: a name, its text form, or a Task.
        columns      of a table (N, F): the names of its columns, or what was measured of them.

    Raises      InputError: empty, NaN or infinite, outside the box, labels of another task, lengths that differ.
    Deviations  floats outside the box by at most 1e-6 of its width are rounding and are clamped.

    >>> data = LabelledSet(torch.tensor([[0, 255], [51, 102]], dtype=torch.uint8), [1, 0])
    >>> data.inputs
    tensor([[0.0000, 1.0000],
            [0.2000, 0.4000]])
    >>> data.take([1]).indices
    tensor([1])
    """

    def __init__(
        self,
        inputs: Any,
        labels: Any,
        box: Box | tuple[Limit, Limit] = (0.0, 1.0),
        class_names: Sequence[str] | None = None,
        name: str = "tensors",
        indices: Any = None,
        task: Task | str | None = None,
        columns: Sequence[str] | Columns | None = None,
    ) -> None:
        self.name = name
        self.box = Box.of(box)
        self.task = CLASSIFICATION if task is None else parse_task(task)
        self.labels: Tensor = _checked_labels(labels, self.task)
        self._stored: Tensor = _checked_inputs(inputs, self.box, len(self.labels))
        self.columns = _measured(columns, self)
        self.class_names = None if class_names is None else tuple(str(one) for one in class_names)
        if self.class_names is not None and self.task.plain and len(self.class_names) <= int(self.labels.max()):
            raise InputError(
                f"`class_names` must name every class; got {len(self.class_names)} names and a label "
                f"{int(self.labels.max())}. Give one name per class, in label order."
            )
        rows = torch.arange(len(self.labels)) if indices is None else torch.as_tensor(indices)
        if rows.shape != self.labels.shape[:1] or rows.dtype != torch.int64:
            raise InputError(
                f"`indices` must be {len(self.labels)} whole row numbers; got shape {tuple(rows.shape)}, {rows.dtype}"
            )
        self.indices: Tensor = rows

    @classmethod
    def from_dataset(
        cls, source: Any, *, limit: int | None = None, seed: int = 0, task: Task | str | None = None, **options: Any
    ) -> LabelledSet:
        """Read a torch `Dataset` or `DataLoader` into memory (`data/gather.py`); options are those of the class."""
        from trustbound.data.gather import gather

        found = gather(source, limit=limit, seed=seed, task=task)
        for name in ("class_names", "name"):
            options[name] = options.get(name) or getattr(found, name)
        data = cls(found.inputs, found.labels, indices=found.rows, task=task, **options)
        return data if found.rows is not None else data.stratified(limit, seed)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        kept = "uint8" if self._stored.dtype == torch.uint8 else "float32"
        return f"LabelledSet({self.name!r}, {len(self)} examples of shape {self.shape}, kept as {kept})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (*F) of one example."""
        return tuple(self._stored.shape[1:])

    @property
    def inputs(self) -> Tensor:
        """Every example as float32 in the box; made anew at each call when the set is kept as uint8."""
        return self._stored if self._stored.dtype == torch.float32 else _scaled(self._stored, self.box)

    def batch(self, rows: Any) -> Tensor:
        """The examples of these rows as float32 in the box: an index tensor, a list or a slice."""
        stored = self._stored[_rows(rows, len(self))]
        return stored if stored.dtype == torch.float32 else _scaled(stored, self.box)

    def take(self, rows: Any) -> LabelledSet:
        """A set of these rows only, which remembers their original row numbers in `indices`."""
        rows = _rows(rows, len(self))
        return LabelledSet(
            self._stored[rows],
            self.labels[rows],
            box=self.box,
            class_names=self.class_names,
            name=self.name,
            indices=self.indices[rows],
            task=self.task,
            columns=self.columns,
        )

    def measured_by(self, columns: Columns) -> LabelledSet:
        """The same examples with the units of another table, of training data say, whose columns are called alike."""
        if self.shape != (len(columns),) or (self.columns is not None and self.columns.names != columns.names):
            own = "none" if self.columns is None else ", ".join(self.columns.names)
            raise InputError(f"both tables need the same columns; got {', '.join(columns.names)} and {own}")
        other = copy.copy(self)
        other.columns = columns
        return other

    def stratified(self, limit: int | None, seed: int = 0) -> LabelledSet:
        """At most `limit` examples with the class proportions kept to ±1, in their old order.

        Of a task whose labels are no classes, any `limit` of them.
        """
        if isinstance(limit, int) and not isinstance(limit, bool) and limit >= len(self):
            return self
        strata = self.labels if self.task.plain else torch.zeros(len(self), dtype=torch.int64)
        return self.take(torch.from_numpy(draw_stratified(strata.numpy(), limit, seed)))

    def check_labels(self, classes: int) -> None:
        """Refuse labels that a model with this many classes cannot give.

        >>> LabelledSet(torch.rand(2, 3), [0, 9]).check_labels(classes=5)
        Traceback (most recent call last):
        ...
        trustbound.errors.InputError: labels must lie in 0..4 for a model with 5 classes; got 0..9 ...
        """
        if (highest := int(self.labels.max())) >= classes:
            wrong = int((self.labels >= classes).sum())
            raise InputError(
                f"labels must lie in 0..{classes - 1} for a model with {classes} classes; got "
                f"{int(self.labels.min())}..{highest} ({wrong} of {len(self)} too large). "
                "Check that the data is the one the model was trained for, and that labels count from 0 (class_index "
                "renumbers folders of pictures)."
            )

    @cached_property
    def eight_bit(self) -> bool:
        """Whether every value is one of the 256 levels k / 255 of the box, to 1e-3 of a level."""
        if self._stored.dtype == torch.uint8:
            return True
        low, high = _limits(self.box, torch.float64)
        for part in torch.split(self._stored, 1024):
            level = (part.double() - low) / (high - low) * 255.0
            if bool(((level - level.round()).abs() > 1e-3).any()):
                return False
        return True

    @cached_property
    def sha256(self) -> str:
        """Digest of inputs, labels and box: the same examples in the same order, whatever their name."""
        digest = hashlib.sha256(f"{self._stored.dtype} {tuple(self._stored.shape)}".encode())
        for part in torch.split(self._stored, 4096):
            digest.update(np.ascontiguousarray(part.numpy()).data)
        digest.update(self.labels.numpy().tobytes())
        digest.update(np.asarray(self.box.low).tobytes() + np.asarray(self.box.high).tobytes())
        return digest.hexdigest()


def _measured(columns: Sequence[str] | Columns | None, data: LabelledSet) -> Columns | None:
    """What is known of the columns: of all rows that were read, also when fewer are kept."""
    if columns is not None and not isinstance(columns, Columns):
        columns = Columns.of(data.inputs.numpy(), columns)
    if columns is not None and data.shape != (len(columns),):
        raise InputError(f"`columns` must name each of the features of shape {data.shape}; got {len(columns)} names")
    return columns


def _limits(box: Box, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return torch.as_tensor(box.low, dtype=dtype), torch.as_tensor(box.high, dtype=dtype)


def _scaled(stored: Tensor, box: Box) -> Tensor:
    low, high = _limits(box, torch.float32)
    unit = stored.to(torch.float32).div_(255.0)
    if box == Box(0.0, 1.0):
        return unit
    # lerp hits both limits exactly; low + (high - low) may round past high.
    return torch.lerp(low.expand_as(unit), high.expand_as(unit), unit)


def _rows(rows: Any, total: int) -> Any:
    if isinstance(rows, slice):
        return rows
    chosen = torch.as_tensor(rows)
    if chosen.dtype == torch.bool or chosen.numel() == 0:
        return chosen if chosen.dtype == torch.bool else chosen.to(torch.int64)
    if chosen.is_floating_point() or chosen.dim() > 1:
        raise InputError(f"rows must be whole numbers; got {chosen.dtype}, shape {tuple(chosen.shape)}")
    if int(chosen.max()) >= total or int(chosen.min()) < 0:
        raise InputError(f"rows must lie in 0..{total - 1}; got {int(chosen.min())}..{int(chosen.max())}")
    return chosen.to(torch.int64)


def _checked_labels(labels: Any, task: Task) -> Tensor:
    try:
        came = torch.as_tensor(np.asarray(labels) if isinstance(labels, list | tuple) else labels)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = "class numbers" if task.plain else f"labels of a {task.name}"
        raise InputError(
            f"`labels` must be a tensor or array of {kind}; got {type(labels).__name__}: {error}"
        ) from error
    came = came.detach().cpu()
    if came.dim() and not came.numel():
        raise InputError("a labelled set needs at least 1 example; got none")
    return task.checked_labels(came)


def _checked_inputs(inputs: Any, box: Box, count: int) -> Tensor:
    try:
        came = torch.as_tensor(inputs)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"`inputs` must be a tensor or a numeric array; got {type(inputs).__name__}: {error}"
        ) from error
    came = came.detach().cpu().contiguous()  # pictures come with channels last in memory: views of them would fail
    shape = tuple(came.shape)
    if came.dim() < 2:
        raise InputError(f"`inputs` must have shape (B, *F); got shape {shape}. Add a feature axis.")
    if shape[0] != count:
        raise InputError(f"`inputs` and `labels` must have one length; got {shape[0]} and {count}.")
    if 0 in shape:
        raise InputError(f"`inputs` need at least one feature; got shape {shape}")
    if came.dtype != torch.uint8 and not came.is_floating_point():
        raise InputError(
            f"`inputs` must be uint8 (scaled to the box) or floating point (already in the box); "
            f"got {came.dtype}, shape {shape}."
        )
    low, high = _limits(box, torch.float32)
    try:
        fits = np.broadcast_shapes(low.shape, high.shape, shape[1:]) == shape[1:]
    except ValueError:
        fits = False
    if not fits:
        raise InputError(
            f"the box must broadcast to one example of shape {shape[1:]}; "
            f"got limits of shape {tuple(low.shape)} and {tuple(high.shape)}"
        )
    return came if came.dtype == torch.uint8 else _in_box(came.to(torch.float32), low, high, box)


def _in_box(inputs: Tensor, low: Tensor, high: Tensor, box: Box) -> Tensor:
    if not bool(torch.isfinite(inputs).all()):
        bad = (~torch.isfinite(inputs)).flatten(1)
        row = int(bad.any(1).nonzero()[0])
        raise InputError(
            f"`inputs` must be finite; got {int(bad.sum())} NaN or infinite values, the first in row {row}, "
            f"shape {tuple(inputs.shape)}. Drop or repair these examples."
        )
    if bool(outside(inputs, box).any()):
        span = f"[{box.low:g}, {box.high:g}]" if np.ndim(box.low) + np.ndim(box.high) == 0 else "per feature"
        raise InputError(
            f"`inputs` must lie in the box {span}; got [{float(inputs.min()):.3g}, "
            f"{float(inputs.max()):.3g}], shape {tuple(inputs.shape)}. If you normalise outside the model, "
            "undo it here and pass mean/std to load_model; for another range pass `box`."
        )
    if bool(((inputs < low) | (inputs > high)).any()):
        return inputs.clamp(low, high)
    return inputs
