"""scikit-learn's real handwritten digits: 1,797 pictures of 8×8 pixels that need no file."""

from __future__ import annotations

from trustbound.data.labelled import LabelledSet
from trustbound.record.box import Box


def read_digits(split: str, *, box: Box | None = None) -> LabelledSet:
    """Real 8×8 digits, values k / 16, shape (1, 8, 8), 10 classes; 1,352 for training and 445 for testing.

    Split       fixed: within each class every fourth example is a test example, the others train.
    Reference   Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    Deviations  none; scikit-learn ships the test part of the original only, split anew here.

    >>> len(read_digits("train")), len(read_digits("test"))
    (1352, 445)
    """
    import numpy as np
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = source.target.astype(np.int64)
    place = np.zeros_like(labels)  # how many of its class came before
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        place[rows] = np.arange(len(rows))
    rows = np.flatnonzero((place % 4 == 3) == (split == "test"))
    unit = source.images[rows, None] / 16.0
    box = box or Box(0.0, 1.0)
    return LabelledSet(
        (box.low + unit * (np.asarray(box.high) - box.low)).astype(np.float32),
        labels[rows],
        box=box,
        class_names=[str(label) for label in range(10)],
        name=f"digits/{split}",
        indices=rows,
    )
