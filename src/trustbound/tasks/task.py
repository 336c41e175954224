"""What every task says: the outputs and labels that it takes, what is right, and how far that is from changing."""

from __future__ import annotations

import dataclasses
import numbers
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from trustbound.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, eq=False)
class Requirement:
    """What a proof must show: ⟨row, outputs⟩ + shift above 0 for every row, or for the rows of enough groups.

    Shapes      rows (B, J, K) and shift (B, J) float64; shift None for 0. Groups of as many rows each lie behind one
                another: `counted` (B, G) bool says which there are, `enough` (B,) of how many all rows must hold; both
                None where every row must.
    """

    rows: Tensor
    shift: Tensor | None = None
    counted: Tensor | None = None
    enough: Tensor | None = None

    @property
    def every(self) -> bool:
        """Whether the smallest row, as it is, decides."""
        return self.shift is None and self.enough is None

    def margin(self, values: Tensor) -> Tensor:
        """Of values of the rows (B, J), shifts included, the smallest, or the `enough`-th largest group's: (B,).

        >>> one = torch.ones(1, 3, dtype=torch.bool)
        >>> asked = Requirement(torch.zeros(1, 6, 2), counted=one, enough=torch.tensor([2]))
        >>> asked.margin(torch.tensor([[3.0, 1.0, -2.0, 5.0, 2.0, 4.0]]))
        tensor([1.])
        """
        if self.counted is None or self.enough is None:
            return values.amin(1)
        groups = values.reshape(*self.counted.shape, -1).amin(2).masked_fill(~self.counted, -torch.inf)
        return groups.sort(1, descending=True).values.gather(1, self.enough.unsqueeze(1) - 1).squeeze(1)


def real(given: Any) -> float | None:
    """A number as a float, numpy's too; None for what is none, and for whole numbers beyond a float.

    >>> real(3), real(True), real("3"), real(10**400)
    (3.0, None, None, None)
    """
    if isinstance(given, bool) or not isinstance(given, numbers.Real):
        return None
    try:
        return float(given)
    except OverflowError:
        return None


class Task(ABC):
    """What outputs (B, *O) and labels (B, *L) mean. A member is a frozen dataclass of its numbers.

    `scores` is all that an attack sees: scores (B, M) of M answers, of which the right one, `right`, must stay the
    largest. So every attack, goal and check that is made for classes serves every task.
    """

    name: ClassVar[str]
    calibrated: ClassVar[bool] = False
    smooth: ClassVar[bool] = True
    #: Whether scores are the outputs themselves and the right answer is the label.
    plain: ClassVar[bool] = False
    #: Why nothing can be proven of it; empty where something can.
    no_proof: ClassVar[str] = ""
    #: Whether an answer can be seen without its scores.
    decided: ClassVar[bool] = False
    #: Whether what a model returns are maps, which proofs read as one long row.
    maps: ClassVar[bool] = False
    #: What a model returns, in words, and what its numbers are called.
    returns: ClassVar[str]
    called: ClassVar[str] = "numbers"

    def __str__(self) -> str:
        """The text form, which `parse_task` reads."""
        said = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}  # type: ignore[arg-type]
        told = ",".join(f"{name}={value!r}" for name, value in said.items() if value is not None)
        return f"{self.name}:{told}" if told else self.name

    def agrees(self, other: Task) -> bool:
        """Whether another of the same name says the same, as far as both say anything."""
        names = [one.name for one in dataclasses.fields(self)]  # type: ignore[arg-type]
        pairs = [(getattr(self, name), getattr(other, name)) for name in names]
        return all(one == two for one, two in pairs if one is not None and two is not None)

    def judging(self) -> Task:
        """The task itself, refused where it lacks what says which outputs are right."""
        return self

    @abstractmethod
    def fitted(self, outputs: Any) -> Tensor | None:
        """What a module returned as outputs of this task (B, *O); None where it is none."""

    @abstractmethod
    def advice(self, outputs: Any) -> str:
        """What to do about outputs that `fitted` refused."""

    @abstractmethod
    def checked_labels(self, labels: Tensor) -> Tensor:
        """Labels on the CPU as they are kept.

        Raises      InputError when they are none of this task, whatever the model.
        """

    @abstractmethod
    def check_fit(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse labels (B, *L) that do not belong to outputs of shape (*O)."""

    def check_clean(self, outputs: Tensor) -> None:
        """Refuse outputs of clean inputs that are no finite numbers."""
        broken = ~torch.isfinite(outputs).flatten(1).all(dim=1)
        if bool(broken.any()):
            raise InputError(
                f"the model must answer clean inputs with finite {self.called}; {int(broken.sum())} of {len(outputs)} "
                f"rows hold NaN or infinity, the first at row {int(broken.nonzero()[0])}. Check the weights and "
                "the box."
            )

    @abstractmethod
    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Scores (B, M) of M answers; of outputs that are no answer at all one is NaN or +inf."""

    def right(self, labels: Tensor) -> Tensor:
        """Which of the answers is right, (B,) int64: the first."""
        return torch.zeros(len(labels), dtype=torch.int64, device=labels.device)

    @abstractmethod
    def rounding_error(self, outputs: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """Below which size a margin of these outputs is a tie, (B,) float64."""

    def decisions(self, outputs: Tensor) -> Tensor:
        """Outputs as an adversary who sees decisions alone sees them, where the task is `decided`."""
        raise NotImplementedError(f"{self.name} is not decided")

    def requirement(self, labels: Tensor, width: int, targets: Tensor | None = None) -> Requirement:
        """What is to be proven of outputs (B, K), K = width.

        Raises      UnsupportedError where nothing can be.
        """
        raise UnsupportedError(f"no proof: {self.no_proof or f'none is known for the task {self.name}'}")

    def described(self, labels: Tensor) -> list[dict[str, Any]]:
        """What a record says of each example's label: plain values by name."""
        return [{} for _ in range(len(labels))]

    def payload(self, outputs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """What a record keeps of the outputs for each example, beside its verdict: plain values by name."""
        return [{} for _ in range(len(outputs))]

    def summary(self, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
        """The task's own measures of quality over all examples, by the names that a report prints."""
        return {}

    def pictures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Maps (B, H, W) of numbers that a report can draw, by their names."""
        return {}
