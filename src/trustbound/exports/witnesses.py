"""The adversarial inputs that a run directory keeps, by example."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trustbound.errors import RecordError
from trustbound.record.audit import AuditRecord
from trustbound.record.store import tensors_stem


@dataclass(frozen=True, eq=False)
class Witness:
    """What breaks an example, and the parameters of the change where the set has some of its own."""

    adversarial: Tensor
    parameters: Tensor | None = None

    @property
    def theta(self) -> Tensor:
        """What the set measures: its own parameters, or the input itself."""
        return self.adversarial if self.parameters is None else self.parameters


def witnesses(
    run: Path, record: AuditRecord, threat: str, positions: Collection[int] | None = None
) -> dict[int, Witness]:
    """The witness of each broken example under a threat, by its place in the audit.

    Parameters
        positions   which of them, all unless given.

    Raises      RecordError when a file that the record speaks of is missing or damaged.
    """
    rows = [row for row in record.examples if row.threat == threat]
    wanted = {
        position: row.settled_by
        for position, row in enumerate(rows)
        if row.verdict == "broken" and (positions is None or position in positions)
    }
    found: dict[int, Witness] = {}
    for step in dict.fromkeys(wanted.values()):
        for path in _shards(run, f"{threat}/{step}"):
            found |= _held(path, {position for position, by in wanted.items() if by == step} - found.keys())
    if len(found) < len(wanted):
        raise RecordError(
            f"the run directory {run} lacks the adversarial inputs of {len(wanted) - len(found)} examples that are "
            f"broken under {threat}. Restore its folder adversarials, or audit again; --csv needs the record alone."
        )
    return found


def _shards(run: Path, step: str) -> Iterator[Path]:
    """The files of a step."""
    name = re.compile(re.escape(tensors_stem(step)) + r"-\d{4,}\.safetensors")
    folder = run / "adversarials"
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if name.fullmatch(path.name))


def _held(path: Path, wanted: Collection[int]) -> dict[int, Witness]:
    try:
        part = load_file(path)
        places = part["position"].tolist()
    except (SafetensorError, OSError, KeyError) as error:
        raise RecordError(
            f"{path} must hold what the record speaks of; it cannot be read: {error}. Restore it, or audit again."
        ) from error
    if "adversarial" not in part:
        return {}
    own = part.get("theta")
    return {
        position: Witness(part["adversarial"][at], None if own is None else own[at])
        for at, position in enumerate(places)
        if position in wanted
    }
