"""The examples of a run and what breaks them, as one .npz file that NumPy reads without pickle.

| array | shape | what it holds |
| --- | --- | --- |
| `inputs`, `labels`, `rows` | (N, *F), (N, …), (N,) | clean inputs, their labels, row numbers in the whole data set |
| `predictions` | (N,) | the model's answers to the clean inputs; −1 of a task without classes |
| `threats` | (T,) | text forms of the threats |
| `adversarial` | (T, N, *F) | what breaks each example; the clean input where nothing does |
| `broken`, `verdicts` | (T, N) | whether there is such an input; the verdict as a word |
| `sizes` | (T, N) | of the change, measured anew in float64; NaN where there is none |
| `box` | (2, …) | lowest and highest valid values |

Of a set whose changes have parameters of their own (`rotation`, `brightness` …) `theta_T` (N, P) holds them, T the
number of the threat, NaN where nothing breaks the example.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trustbound.data.labelled import LabelledSet
from trustbound.errors import RecordError
from trustbound.exports.sources import perturbations_of
from trustbound.exports.witnesses import Witness, witnesses
from trustbound.record.audit import AuditRecord
from trustbound.record.disk.atomic import write_atomically

#: Examples in memory at once, beside the witnesses of one threat.
BLOCK = 256


def write_npz(run: Path, record: AuditRecord, data: LabelledSet, path: Path) -> None:
    """Write the arrays; the witnesses of one threat at a time are in memory.

    Raises      RecordError when witnesses are missing, or one measures otherwise than the record says.
    """
    threats = [bracket.threat for bracket in record.brackets]
    shape = (len(threats), len(data), *data.shape)
    sizes = np.full(shape[:2], np.nan)
    thetas: dict[str, NDArray[Any]] = {}

    def adversarial() -> Iterator[NDArray[Any]]:
        for number, threat in enumerate(threats):
            found = witnesses(run, record, threat)
            sizes[number] = measured(record, data, threat, found)
            if any(witness.parameters is not None for witness in found.values()):
                thetas[f"theta_{number}"] = _parameters(found, len(data))
            for places in torch.arange(len(data)).split(BLOCK):
                block = data.batch(places)
                for at, position in enumerate(places.tolist()):
                    if position in found:
                        block[at] = found[position].adversarial
                yield block.numpy()

    def write(scratch: Path) -> None:
        with zipfile.ZipFile(scratch, "w", allowZip64=True) as archive:
            _streamed(
                archive, "inputs", shape[1:], (data.batch(p).numpy() for p in torch.arange(len(data)).split(BLOCK))
            )
            _streamed(archive, "adversarial", shape, adversarial())
            for name, values in {**_told(record, data, threats), "sizes": sizes, **thetas}.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, np.asarray(values), allow_pickle=False)

    write_atomically(path, write)


def measured(record: AuditRecord, data: LabelledSet, threat: str, found: dict[int, Witness]) -> NDArray[np.float64]:
    """(N,) sizes of the witnesses, measured anew in float64; NaN where there is none.

    Raises      RecordError where one is not of the size that the record says.
    """
    told = [row.size for row in record.examples if row.threat == threat]
    sizes = np.full(len(data), np.nan)
    perturbations = perturbations_of(next(one for one in record.brackets if one.threat == threat))
    for places in torch.tensor(sorted(found), dtype=torch.int64).split(BLOCK) if found else ():
        thetas = torch.stack([found[position].theta for position in places.tolist()])
        around = perturbations.around(data.batch(places).to(thetas.dtype), data.box)
        sizes[places.numpy()] = around.size(thetas).double().numpy()
    for position in found:
        expected = told[position]
        if expected is None or not np.isclose(sizes[position], expected, rtol=1e-6, atol=1e-12):
            raise RecordError(
                f"what breaks row {record.data.indices[position]} under {threat} must measure {expected}, as the "
                f"record says; it measures {sizes[position]:.9g}: the run directory is damaged. Audit again."
            )
    return sizes


def _told(record: AuditRecord, data: LabelledSet, threats: list[str]) -> dict[str, Any]:
    """What needs no witness."""
    verdicts = np.array([[row.verdict for row in record.examples if row.threat == threat] for threat in threats])
    first = [row.prediction for row in record.examples if not threats or row.threat == threats[0]]
    low, high = (np.asarray(limit, dtype=np.float64) for limit in (data.box.low, data.box.high))
    return {
        "labels": data.labels.numpy(),
        "rows": data.indices.numpy(),
        "predictions": np.array([-1 if one is None else one for one in first], dtype=np.int64),
        "threats": np.array(threats),
        "verdicts": verdicts,
        "broken": verdicts == "broken",
        "box": np.stack(np.broadcast_arrays(low, high)),
    }


def _parameters(found: dict[int, Witness], count: int) -> NDArray[Any]:
    """(N, P), NaN where there is no witness."""
    known: Tensor = next(iter(found.values())).theta
    values = torch.full((count, *known.shape), torch.nan, dtype=known.dtype)
    for position, witness in found.items():
        values[position] = witness.theta
    return values.numpy()


def _streamed(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> None:
    """One float32 array of an archive, written block by block."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)
        for block in blocks:
            member.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
