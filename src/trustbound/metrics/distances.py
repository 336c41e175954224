"""How large a perturbation is, in float64, in the norms that threats are stated in."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from trustbound.errors import InputError

NORMS: Final = ("l0", "l1", "l2", "linf")


def size(perturbation: Tensor, norm: str) -> Tensor:
    """The norm of each perturbation, in float64: what is printed, recorded and compared with epsilon.

    l0 counts the features (not the pixels) that differ from zero. Squares of float32 numbers fit float64, so
    that neither tiny nor huge perturbations vanish or overflow.

    Shapes      perturbation (B, *F) of any dtype -> (B,) float64.
    Raises      InputError for a norm that is none of l0, l1, l2, linf.

    >>> step = torch.tensor([[3.0, 0.0, -4.0]])
    >>> [size(step, norm).item() for norm in NORMS]
    [2.0, 7.0, 5.0, 4.0]
    """
    flat = perturbation.detach().to(torch.float64).flatten(1)
    if norm == "l0":
        count = (flat != 0).sum(1).to(torch.float64)
        return torch.where(flat.isnan().any(1), torch.full_like(count, torch.nan), count)
    if norm == "l1":
        return flat.abs().sum(1)
    if norm == "l2":
        return flat.square().sum(1).sqrt()
    if norm == "linf":
        return flat.abs().amax(1) if flat.shape[1] else flat.new_zeros(flat.shape[0])
    raise InputError(f"`norm` must be one of {', '.join(NORMS)}; got {norm!r}. Write for example 'linf'.")


def distance(adversarial: Tensor, inputs: Tensor, norm: str) -> Tensor:
    """The size of `adversarial` - `inputs`, both taken to float64 *before* they are subtracted.

    Subtracting in float32 first may round a step of 8/255 to either side of 8/255.

    Shapes      adversarial, inputs (B, *F) -> (B,) float64.
    Raises      InputError when the shapes differ or the norm is unknown.

    >>> distance(torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 0.5]]), "linf")
    tensor([1.], dtype=torch.float64)
    """
    if adversarial.shape != inputs.shape:
        raise InputError(
            "`adversarial` and `inputs` must have one shape; got "
            f"{tuple(adversarial.shape)} and {tuple(inputs.shape)}. Pass the attacked inputs row by row."
        )
    return size(adversarial.detach().to(torch.float64) - inputs.detach().to(torch.float64), norm)
