"""Does the slack hold on other devices and kernels? The worst error seen, as a share of what was allowed for it.

    python -m benchmarks.rounding_devices [--device cuda] [--networks 40]

Random networks in float32 (also with operands cut to TF32), float16 and bfloat16 are evaluated at random points,
corners and clean inputs of a region, in batches of several sizes, and compared with the list of operations in float64.
A share above 1 would be a hole in `certificates/slack.py`; far below 1 says how much is given away.
"""

from __future__ import annotations

import argparse
import json
import platform
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trustbound.certificates.graph import read
from trustbound.certificates.graph.kernels import check_kernels
from trustbound.certificates.methods.crown import Crown
from trustbound.certificates.region import Region
from trustbound.errors import UnsupportedError
from trustbound.model.wrapping import Model, wrap

RESULTS = Path(__file__).parent / "results"
CASES = (
    ("float32", torch.float32, False),
    ("float32, operands cut to TF32", torch.float32, True),
    ("float16", torch.float16, False),
    ("bfloat16", torch.bfloat16, False),
)


def network(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """One of three small families, weights of an ordinary size."""
    torch.manual_seed(seed)
    if seed % 3 == 0:
        wide, deep = 8 << seed % 4, 1 + seed % 5
        sizes = [20] + [wide] * deep
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers, nn.Linear(wide, 5)), (20,)
    convolution = nn.Conv2d(2, 6, 3, stride=1 + seed % 2, padding=1)
    norm, side = nn.BatchNorm2d(6), 8 // (1 + seed % 2)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.05, 3.0)
    pool: nn.Module = nn.AvgPool2d(2) if seed % 3 == 1 else nn.MaxPool2d(2)
    head = nn.Linear(6 * (side // 2) ** 2, 5)
    return nn.Sequential(convolution, norm, nn.LeakyReLU(0.1), pool, nn.Flatten(), head).eval(), (2, 8, 8)


def worst(model: Model, shape: tuple[int, ...], seed: int, device: str, dtype: torch.dtype) -> float | None:
    """The largest error of a logit over its allowance, None where nothing was allowed for (never certified)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(2, *shape, generator=generator).to(dtype).float().to(device)
    graph = read(model, inputs)
    check_kernels(graph)
    region = Region.around(inputs, model.box, "linf", 0.1)
    rows = torch.eye(5, dtype=torch.float64, device=device).expand(2, -1, -1)
    slack = Crown().bounds(graph, region, rows).slack
    if not bool(slack.isfinite().all()):
        return None
    share = torch.rand(256, 2, *shape, generator=generator, dtype=torch.float64).to(device)
    share[::2] = share[::2].round()
    points = (region.low + (region.high - region.low) * share).to(dtype)
    exact = graph(points.flatten(0, 1).double()).unflatten(0, (256, 2))
    inside = ((points.double() >= region.low) & (points.double() <= region.high)).flatten(2).all(2)
    return max(float(((run - exact).abs() / slack)[inside].max()) for run in _runs(model, points))


def _runs(model: Model, points: Tensor) -> list[Tensor]:
    """The module's own answers in float64 numbers, in batches of several sizes."""
    flat = points.flatten(0, 1)
    with torch.no_grad():
        return [
            torch.cat([model(part).double() for part in flat.split(size)]).unflatten(0, points.shape[:2])
            for size in (len(flat), 33, 4)
        ]


def main() -> None:
    """Print one line a case and keep the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", type=int, default=60)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    device = asked.device
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "networks": asked.networks, "cases": {}}
    if device == "cuda":
        torch.backends.cudnn.enabled = False  # its transforms are refused; see `check_kernels`
    for label, dtype, cut in CASES:
        if cut and device != "cuda":
            continue
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = cut
        shares: list[float] = []
        unknown = refused = 0
        for seed in range(asked.networks):
            module, shape = network(seed)
            try:
                share = worst(wrap(module.to(device, dtype)), shape, seed, device, dtype)
            except UnsupportedError:
                refused += 1
                continue
            if share is None:
                unknown += 1
            else:
                shares.append(share)
        largest = max(shares, default=0.0)
        print(
            f"{label:32s} worst error / allowance {largest:.3f} on {len(shares)}; unknown {unknown}, refused {refused}"
        )
        found["cases"][label] = {"worst": largest, "measured": len(shares), "unknown": unknown, "refused": refused}
    path = asked.out or RESULTS / f"rounding_{device}.json"
    path.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
