"""The kernels that a device may run a network's steps with: which of them round as sums of products do."""

from __future__ import annotations

import math
from typing import Any

import torch

from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.graph.matrix_operations import Convolution
from trustbound.certificates.graph.transposed_convolution import TransposedConvolution
from trustbound.errors import UnsupportedError

#: The unit roundoff to which a switch lets kernels cut the operands of float32 products; of what is not listed
#: nothing is known.
_CUT: dict[object, float] = {
    "none": 0.0,
    "ieee": 0.0,
    "tf32": 2.0**-11,
    "bf16": 2.0**-8,
    "highest": 0.0,
    "high": 2.0**-8,
    "medium": 2.0**-8,
    True: 2.0**-11,
    False: 0.0,
}


def operand_roundoff(device: torch.device, convolution: bool | None = None) -> float:
    """Return the unit roundoff to which kernels may cut the operands of float32 products, 0 where they do not.

    Read from the switches of torch as they stand, the older one for all and the newer one of each backend and
    operation: a proof holds for the kernels that these allow. Without `convolution` of products of either kind.

    >>> operand_roundoff(torch.device("cpu"))
    0.0
    """
    names = ["fp32_precision"]
    if device.type == "cuda":
        dense, wide = ["cuda.matmul.fp32_precision"], ["cudnn.fp32_precision", "cudnn.conv.fp32_precision"]
        dense.append("cuda.matmul.allow_tf32")
        wide.append("cudnn.allow_tf32")
    else:
        names.append("mkldnn.fp32_precision")
        dense, wide = ["mkldnn.matmul.fp32_precision"], ["mkldnn.conv.fp32_precision"]
    names += (dense if convolution is not True else []) + (wide if convolution is not False else [])
    cuts = [_CUT.get(_switch(torch.backends, name), math.inf) for name in names]
    return max(_CUT.get(_switch(torch, "get_float32_matmul_precision"), math.inf), *cuts)


def _switch(room: object, name: str) -> object:
    """Read a switch. One that torch does not have, or refuses to read once the newer ones were turned, says nothing."""
    found: Any = room
    try:
        for part in name.split("."):
            found = getattr(found, part)
        return found() if callable(found) else found
    except (AttributeError, RuntimeError):
        return "none"


def check_kernels(graph: Graph) -> None:
    """Refuse devices and switches under which convolutions may be computed by transforms.

    Raises      UnsupportedError naming the kernels and what to do.
    """
    kind = graph.device.type
    if kind not in ("cpu", "cuda"):
        raise UnsupportedError(
            f"no proof: the rounding of kernels on {kind!r} devices is not known; certify a copy on the CPU"
        )
    convolutions = [step for step in graph.operations if isinstance(step, Convolution | TransposedConvolution)]
    wide = [step for step in convolutions if math.prod(step.weight.shape[2:]) > 1]
    if not wide:
        return
    if kind == "cuda" and torch.backends.cudnn.enabled:
        raise UnsupportedError(
            f"no proof: {wide[0].where}: cuDNN may compute a convolution by Winograd or FFT transforms, whose rounding "
            "is not bounded here. Certify a copy on the CPU, or set torch.backends.cudnn.enabled = False"
        )
    direct = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    if kind == "cpu" and not direct and torch.backends.nnpack.is_available():
        raise UnsupportedError(
            f"no proof: {wide[0].where}: without oneDNN, NNPACK may compute a convolution by Winograd or FFT "
            "transforms, whose rounding is not bounded here. Leave torch.backends.mkldnn enabled"
        )
