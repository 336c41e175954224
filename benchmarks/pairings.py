"""Every attack against every certifier, on networks of many kinds: no success inside a proven region, ever.

    make verify-all        writes benchmarks/results/pairings.json

For each network, norm and certifier the proven radius of each example is searched for; then every attack that serves
the norm goes for each example at exactly that radius. One success would be a proof that is wrong.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trustbound as tb
from trustbound.attacks import build as build_attack
from trustbound.attacks import search
from trustbound.attacks.model_access.oracle import Oracle
from trustbound.attacks.registry import ATTACKS
from trustbound.certificates.certifying import resolve
from trustbound.certificates.graph import read
from trustbound.certificates.radius import certified_radius
from trustbound.certificates.registry import CERTIFIERS
from trustbound.hardening import Recipe
from trustbound.model import build
from trustbound.record.binomial import binomial_interval
from trustbound.threat import Access, Misclassify, NormBall, Random

RESULTS = Path(__file__).parent / "results" / "pairings.json"
EXAMPLES = 60

#: Fewer steps than the defaults where those are made for large pictures.
NUMBERS: dict[str, dict[str, Any]] = {
    "square": {"steps": 1000},
    "apgd": {"steps": 50},
    "apgd-t": {"steps": 30},
    "hopskipjump": {"steps": 15},
}

#: Parts into which a region may be split at each radius that is tried.
PARTS: dict[str, dict[str, Any]] = {"branch-and-bound": {"max_nodes": 200, "timeout": float("inf")}}


class Residual(nn.Module):
    """Convolution, batch norm, a residual sum, max pool, average pool, leaky ReLU: the operations in one net."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.1))
        self.last = nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 10))

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits."""
        inner = self.first(inputs)
        return self.last(inner + self.second(inner))


def networks() -> dict[str, tb.Model]:
    """Networks trained on real digits."""
    train = tb.load_data("digits", split="train")
    shape = {"input_shape": [1, 8, 8], "classes": 10}
    kinds: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "fc": (build("fc", seed=0, widths=[32, 32], **shape), {}),
        "cnn": (build("cnn-small", seed=0, **shape), {}),
        "cnn-hardened": (build("cnn-small", seed=1, **shape), {"objective": "fgsm-rs", "threat": "linf:0.1"}),
        "residual": (Residual(), {}),
    }
    made = {}
    for name, (module, changes) in kinds.items():
        torch.manual_seed(0)
        recipe = Recipe(epochs=8, batch_size=64, learning_rate=5e-3, weight_decay=0.5, **changes)
        made[name] = tb.train(tb.wrap(module, box=(0.0, 1.0), name=name), train, recipe).model
    return made


def pair(model: tb.Model, data: tb.LabelledSet, norm: str) -> list[dict[str, Any]]:
    """Every certifier and every attack of one network in one norm."""
    rows = []
    graph = read(model, data.inputs[:2])
    ball = NormBall(norm, 1.0)
    tolerance = ball.tolerance(model.box, data.inputs[0].numel())
    for certifier in (row for row in CERTIFIERS if row.deterministic and row.layers):
        if norm not in certifier.norms:
            continue
        method, _ = resolve(certifier.name, **PARTS.get(certifier.name, {}))
        radius = certified_radius(
            method, graph, data.inputs, data.labels, model.box, norm, steps=8, tolerance=tolerance
        )
        proven = (radius > 0).nonzero()[:, 0]
        for attack in ATTACKS:
            if norm not in attack.norms or attack.shared or not len(proven):
                continue
            started = time.perf_counter()
            inputs, labels = data.inputs[proven], data.labels[proven]
            with Oracle(model, examples=len(proven), access=Access[attack.needs.upper()]) as oracle:
                found = search(
                    build_attack(attack.name, **NUMBERS.get(attack.name, {})),
                    oracle,
                    ball.around(inputs, model.box, radius=radius[proven]),
                    Misclassify().bind(labels, 10),
                    Random(0, proven),
                )
            broken = int(found.success.sum())
            rows.append(
                {
                    "network": model.name,
                    "norm": norm,
                    "certifier": certifier.name,
                    "attack": attack.name,
                    "proven": len(proven),
                    "median_radius": float(radius[proven].median()),
                    "broken_inside": broken,
                    "seconds": time.perf_counter() - started,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run all pairs, keep the table, fail on any success."""
    torch.manual_seed(0)
    data = tb.load_data("digits", split="test", limit=EXAMPLES)
    rows = [row for model in networks().values() for norm in ("linf", "l2", "l1") for row in pair(model, data, norm)]
    tried = sum(row["proven"] for row in rows)
    broken = sum(row["broken_inside"] for row in rows)
    summary = {
        "pairs": len(rows),
        "tried": tried,
        "broken_inside": broken,
        "interval": binomial_interval(broken, tried),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    print(summary)
    if broken:
        raise SystemExit("a certified example was broken")


if __name__ == "__main__":
    main()
