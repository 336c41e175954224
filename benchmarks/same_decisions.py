"""Do the same decisions give the same bracket? One MNIST network whose logits are scaled, shifted, normalised, cast.

    python -m benchmarks.same_decisions [--examples 100]

A fully connected 784-64-32-10 network is trained in seconds. Copies with logits × 1e±9 and × 1e±4, shifted by 1e3, as
log-probabilities, in float64, decide alike: their brackets may differ from the plain one only in examples that the
audit lists as ties or as lost to rounding. The bfloat16 and float16 copies are other networks: theirs stand beside.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trustbound as tb
from benchmarks.networks import NETWORKS, data

RESULTS = Path(__file__).parent / "results" / "same_decisions.json"
THREAT = "linf:0.03"


class Changed(nn.Module):
    """The same decisions, other logits."""

    def __init__(self, network: nn.Module, scale: float = 1.0, shift: float = 0.0, normalised: bool = False) -> None:
        super().__init__()
        self.network, self.scale, self.shift, self.normalised = network, scale, shift, normalised

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, 1, 28, 28) → (B, 10)."""
        logits: Tensor = self.scale * self.network(inputs) + self.shift
        return logits.log_softmax(1) if self.normalised else logits


def trained() -> nn.Sequential:
    """784-64-32-10, one epoch of a tenth of MNIST five times over."""
    examples = data(NETWORKS["mnist-cnn"], "train", 6000)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(8):
        for rows in torch.randperm(len(examples.labels)).split(100):
            loss = F.cross_entropy(network(examples.inputs[rows]), examples.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


def copies(network: nn.Module) -> dict[str, nn.Module]:
    """Every copy by its name; those of other decisions last."""
    plain = Changed(network)
    found: dict[str, nn.Module] = {f"× {scale:g}": Changed(network, scale=scale) for scale in (1e-9, 1e-4, 1e4, 1e9)}
    found["+ 1e3"] = Changed(network, shift=1e3)
    found["log-softmax"] = Changed(network, normalised=True)
    named = {"float32": plain, **found}
    for name, module in list(named.items()):
        named["float64" if name == "float32" else f"{name}, float64"] = copy.deepcopy(module).double()
    for dtype in (torch.bfloat16, torch.float16):
        named[str(dtype).removeprefix("torch.")] = copy.deepcopy(plain).to(dtype)
    return named


def measure(examples: int, budget: str) -> dict[str, Any]:
    """Audit every copy; each row counts the verdicts that differ from those of the plain network."""
    images = data(NETWORKS["mnist-cnn"], "test", examples)
    rows: dict[str, Any] = {}
    first = None
    for name, module in copies(trained()).items():
        record = tb.audit(tb.wrap(module, box=(0.0, 1.0)), images, [THREAT], budget=budget, curve_examples=0)
        first = first or record
        bracket = record.brackets[0]
        listed = {row.index for row in record.examples if row.tie or row.rounded}
        other = [a.index for a, b in zip(record.examples, first.examples, strict=True) if a.verdict != b.verdict]
        rows[name] = {
            "clean": record.clean_accuracy,
            "lower": bracket.lower,
            "upper": bracket.upper,
            "other_verdicts": other,
            "listed": sorted(listed),
            "unlisted": sorted(set(other) - listed),
            "no_proof": bracket.no_proof,
        }
        print(f"{name:24s} clean {record.clean_accuracy:.3f} [{bracket.lower:.3f}, {bracket.upper:.3f}]", end=" ")
        print(f"{len(other)} other verdicts {other}, {len(listed)} listed, {bracket.no_proof or ''}", flush=True)
    return rows


def main() -> None:
    """Measure, print, keep; fail where decisions are the same and an unlisted verdict is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--budget", default="standard")
    given = parser.parse_args()
    rows = measure(given.examples, given.budget)
    RESULTS.write_text(json.dumps({"threat": THREAT, "examples": given.examples, "rows": rows}, indent=1) + "\n")
    wrong = [name for name, row in rows.items() if row["unlisted"] and name not in ("bfloat16", "float16")]
    if wrong:
        raise SystemExit(f"verdicts differ that are not listed: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
