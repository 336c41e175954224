"""Linear relaxations of a ReLU or a max pool, sound over the limits of its operand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trustbound.certificates.graph.operations import Activation, MaxPool
from trustbound.certificates.methods.interval import Bounds


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearRelaxation:
    """For an activation: `below` · z + `floor` ≤ act(z) ≤ `above` · z + `shift`, all (B, *F).

    A ReLU has no `floor`, and a `shift` that is nowhere negative.
    """

    below: Tensor
    above: Tensor
    shift: Tensor
    floor: Tensor | None = None

    def select(self, rows: Tensor) -> LinearRelaxation:
        """Return those of some examples."""
        floor = None if self.floor is None else self.floor[rows]
        return LinearRelaxation(below=self.below[rows], above=self.above[rows], shift=self.shift[rows], floor=floor)

    def outward(self) -> LinearRelaxation:
        """Return the same in float32: constants rounded away, slopes to the nearest: the step's noise covers that."""
        # A constant that float32 cannot tell from 0 is lifted to where it can; 0, that of a stable ReLU, stays.
        least = torch.finfo(torch.float32).smallest_normal
        shift = torch.where(self.shift == 0, 0.0, _up(self.shift + least))
        floor = None if self.floor is None else -_up(least - self.floor)
        return LinearRelaxation(below=self.below.float(), above=self.above.float(), shift=shift, floor=floor)

    def single(self) -> LinearRelaxation:
        """Return the same in float32."""
        floor = None if self.floor is None else self.floor.float()
        return LinearRelaxation(
            below=self.below.float(), above=self.above.float(), shift=self.shift.float(), floor=floor
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPoolRelaxation:
    """For a max pool: the operand at `winner` is a lower bound; the upper one is it where `sure`, else `top`.

    Shapes      all (B, *F) of the pool; `winner` counts in the operand's flattened plane.
    """

    winner: Tensor
    sure: Tensor
    top: Tensor

    def select(self, rows: Tensor) -> MaxPoolRelaxation:
        """Return those of some examples."""
        return MaxPoolRelaxation(winner=self.winner[rows], sure=self.sure[rows], top=self.top[rows])

    def outward(self) -> MaxPoolRelaxation:
        """Return the same in float32, its upper limits rounded upward."""
        return replace(self, top=_up(self.top + torch.finfo(torch.float32).smallest_normal))

    def single(self) -> MaxPoolRelaxation:
        """Return the same in float32."""
        return replace(self, top=self.top.float())


def _up(values: Tensor) -> Tensor:
    """Return numbers of float32 that are no smaller."""
    narrow = values.float()
    return torch.nextafter(narrow, torch.full_like(narrow, torch.inf))


def relax_activation(step: Activation, operand: Bounds) -> LinearRelaxation:
    """Return the relaxation of CROWN: the chord above, and below the slope that leaves less area.

    Reference   Zhang et al., Efficient Neural Network Robustness Certification with General Activation
                Functions, 2018, arXiv:1811.00866, table 3 and the remark on adaptive selection.

    >>> both = Bounds(low=torch.tensor([[-1.0]]), high=torch.tensor([[3.0]]))
    >>> found = relax_activation(Activation(sources=(0,), shape=(1,)), both)
    >>> float(found.below), float(found.above), round(float(found.shift), 4)
    (1.0, 0.75, 0.75)
    """
    low, high = operand.low, operand.high
    one, slope = low.new_tensor(1.0), low.new_tensor(step.slope)
    crossing = (low < 0) & (high > 0)
    width = torch.where(crossing, high - low, 1.0)
    chord = (high - slope * low) / width
    above = torch.where(crossing, chord, torch.where(low >= 0, one, slope))
    below = torch.where(crossing, torch.where(high >= -low, one, slope), above)
    # Whatever the rounding of the chord, a line that lies above both ends lies above the whole.
    ends = torch.maximum((slope - above) * low, (1 - above) * high)
    grain = 8 * torch.finfo(low.dtype).eps
    shift = torch.where(crossing, ends.clamp(min=0) + grain * operand.size, 0.0)
    # Limits that overflowed know nothing: whatever they touch must become NaN, and so never certified.
    unknown = low.isnan() | high.isnan()
    below, above = below.masked_fill(unknown, torch.nan), above.masked_fill(unknown, torch.nan)
    return LinearRelaxation(below=below, above=above, shift=shift)


def relax_max_pool(step: MaxPool, operand: Bounds) -> MaxPoolRelaxation:
    """Return the operand with the largest lower limit; it is the maximum where no other can reach it.

    Reference   Singh et al., An Abstract Domain for Certifying Neural Networks, 2019, section 4.3.
    """
    bottom, winner = step.winners(operand.low)
    top = step.apply(operand.high)
    # Lower the winner's own upper limit in turn: the others' best is what a second pool would find.
    flat = operand.high.flatten(2)
    own = flat.gather(2, winner.flatten(2)).reshape(winner.shape)
    others = _others(step, operand.high, winner)
    return MaxPoolRelaxation(winner=winner, sure=(others <= bottom) & (own >= others), top=top)


def _others(step: MaxPool, high: Tensor, winner: Tensor) -> Tensor:
    """Return the largest upper limit of each window without its winner, −∞ for a window of one."""
    values, places = pool_windows(step, high)
    return values.masked_fill(places == winner.unsqueeze(2), -torch.inf).amax(2)


def pool_windows(step: MaxPool, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what stands in each window, (B, C, kernel, *F), and where in the flattened plane, (1, 1, kernel, *F).

    Beyond the edge of the plane stands −∞, at −1.

    >>> pool = MaxPool(sources=(0,), shape=(1, 1, 1), kernel=(1, 2), stride=(1, 2))
    >>> found, places = pool_windows(pool, torch.tensor([[[[5.0, 7.0]]]]))
    >>> found.flatten().tolist(), places.flatten().tolist()
    ([5.0, 7.0], [0.0, 1.0])
    """
    channels, (rows, columns) = values.shape[1], step.kernel
    border = (step.padding[1], step.padding[1], step.padding[0], step.padding[0])
    # Windows that ceil mode lets hang over the edge need more −∞ beyond it.
    need = [
        (out - 1) * s + d * (k - 1) + 1 - size - 2 * p
        for out, s, d, k, size, p in zip(
            step.shape[1:], step.stride, step.dilation, step.kernel, values.shape[2:], step.padding, strict=True
        )
    ]
    border = (border[0], border[1] + max(need[1], 0), border[2], border[3] + max(need[0], 0))
    plane = torch.arange(values.shape[2] * values.shape[3], device=values.device, dtype=values.dtype)
    index = plane.reshape(1, 1, *values.shape[2:])
    cut = {"dilation": step.dilation, "stride": step.stride}
    found = _windows(torch.nn.functional.pad(values, border, value=-torch.inf), step, cut)
    indices = _windows(torch.nn.functional.pad(index, border, value=-1.0), step, cut)
    found = found.reshape(len(values), channels, rows * columns, *step.shape[1:])
    return found, indices.reshape(1, 1, rows * columns, *step.shape[1:])


def _windows(padded: Tensor, step: MaxPool, cut: dict[str, tuple[int, int]]) -> Tensor:
    """Return the windows of a padded plane, (B, C, kernel, *positions of the pool)."""
    height, width = step.shape[1:]
    rows = [
        padded[
            :,
            :,
            i * cut["dilation"][0] : i * cut["dilation"][0] + (height - 1) * cut["stride"][0] + 1 : cut["stride"][0],
            j * cut["dilation"][1] : j * cut["dilation"][1] + (width - 1) * cut["stride"][1] + 1 : cut["stride"][1],
        ]
        for i in range(step.kernel[0])
        for j in range(step.kernel[1])
    ]
    return torch.stack(rows, 2)
