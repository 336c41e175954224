"""scikit-learn's diabetes study: 442 patients, ten measurements each, and a number to predict; no file is needed."""

from __future__ import annotations

from trustbound.data.labelled import LabelledSet
from trustbound.errors import InputError
from trustbound.record.box import Box


def read_diabetes(split: str, *, box: Box | None = None) -> LabelledSet:
    """Ten measurements scaled to [0, 1] by their range over all patients; a measure of progress, 25 to 346.

    Split       fixed: every fourth patient is a test example, the others train (332 and 110).
    Reference   Efron, Hastie, Johnstone and Tibshirani, Least Angle Regression, Annals of Statistics, 2004.
    Deviations  measurements in units of their range in place of centred ones, so that one box holds them all.
    Raises      InputError for a box other than (0, 1).

    >>> data = read_diabetes("test")
    >>> len(data), data.shape, float(data.labels.min()), float(data.labels.max())
    (110, (10,), 40.0, 311.0)
    """
    import numpy as np
    from sklearn.datasets import load_diabetes

    if box not in (None, Box(0.0, 1.0)):
        raise InputError(f"diabetes is scaled to the box (0, 1); got {box}. Leave the box out.")
    source = load_diabetes(scaled=False)
    low, high = source.data.min(0), source.data.max(0)
    rows = np.flatnonzero((np.arange(len(source.target)) % 4 == 3) == (split == "test"))
    return LabelledSet(
        ((source.data - low) / (high - low))[rows].astype(np.float32),
        source.target[rows].astype(np.float64),
        name=f"diabetes/{split}",
        indices=rows,
        task="regression",
    )
