"""What every set of perturbations offers, whatever it is made of."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from trustbound.record.box import Box, Limit
from trustbound.threat.neighbourhood import Neighbourhood


class PerturbationSet(Protocol):
    """What an adversary may do to any input: a size in a unit, and the neighbourhoods around batches.

    Its text form opens that of a threat and reads back as the same set.
    """

    @property
    def name(self) -> str:
        """As in the registry; several joined by commas."""

    @property
    def norm(self) -> str:
        """The norm that measures it where it is a norm ball, "" elsewhere."""

    @property
    def per_column(self) -> bool:
        """Whether radii of a norm ball differ by input value."""

    @property
    def epsilon(self) -> float:
        """The largest size allowed, in the set's unit; `inf` for no limit but the box."""

    @property
    def words(self) -> str:
        """What may change and by how much, for people."""

    @property
    def alone(self) -> float:
        """How far one input value may go whatever the others do; `inf` where nothing says so."""

    @property
    def grain(self) -> float:
        """The smallest size that is a change at all, 0 where every size is one."""

    def check(self, box: Box, shape: tuple[int, ...]) -> None:
        """Refuse inputs (*F) that it cannot change, and sizes that are a mistake of units."""

    def tolerance(self, box: Box, features: int) -> float:
        """τ: what float rounding may add to a size."""

    def diameter(self, box: Box, features: int) -> float:
        """The largest size that is any different from no limit."""

    def extent(self, radius: Tensor) -> Tensor:
        """Of a norm ball: the radius of each example (B,), or of each of its values (B, *F), that a proof covers."""

    def resized(self, epsilon: float) -> PerturbationSet:
        """The same set of another size."""

    def around(
        self, inputs: Tensor, box: Box | tuple[Limit, Limit], radius: float | Tensor | None = None
    ) -> Neighbourhood:
        """The allowed changes of a batch (B, *F); `radius`, a number or (B,), replaces epsilon."""
