"""Which lattice of stored values inputs lie on."""

from __future__ import annotations

import torch
from torch import Tensor

from trustbound.record.box import Box

#: Levels of the usual sources: 8-bit pictures, scikit-learn's digits, black and white, 16-bit pictures.
LEVELS = (255, 16, 1, 65535)


def levels_of(inputs: Tensor, box: Box) -> int | None:
    """The number of steps between low and high that every value is a multiple of, or None.

    >>> levels_of(torch.tensor([[3 / 255, 1.0]]), Box(0.0, 1.0)), levels_of(torch.rand(9, 9), Box(0.0, 1.0))
    (255, None)
    """
    low = torch.as_tensor(box.low, dtype=torch.float64, device=inputs.device)
    high = torch.as_tensor(box.high, dtype=torch.float64, device=inputs.device)
    unit = (inputs.double() - low) / (high - low)
    for levels in LEVELS:
        place = unit * levels
        # Half a thousandth of a level, and what float32 leaves of it: 2^-24 of the value.
        if bool(((place - place.round()).abs() <= max(5e-4, levels * 2.0**-23)).all()):
            return levels
    return None
