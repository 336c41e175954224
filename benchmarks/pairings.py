"""Every attack against every certifier, on networks of many kinds: no success inside a proven region, ever.

    make verify-all        writes benchmarks/results/pairings.json

For each network, norm and certifier the proven radius of each example is searched for; then every attack that serves
the norm goes for each example at exactly that radius. One success would be a proof that is wrong. Sets that are no norm
balls are proven at a few sizes, attacked by all searches that serve them, and sampled: a million pictures in all.

    python -m benchmarks.pairings --small      one network, 12 examples: a look whether all of it runs; writes nothing
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trustbound as tb
from benchmarks.fuzz_networks import make
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

#: Sets that are no norm balls, who proves them with what, and random pictures of each example.
CHANGES = ("rotation:10", "rotation:25", "translation:0.4", "brightness:0.2", "rotation:5,translation:0.25")
CELLS, SAMPLES = 512, 1000

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


def networks(names: Sequence[str] = ()) -> dict[str, tb.Model]:
    """Networks trained on real digits: all, or those named."""
    train = tb.load_data("digits", split="train")
    shape = {"input_shape": [1, 8, 8], "classes": 10}
    kinds: dict[str, tuple[nn.Module, dict[str, Any]]] = {
        "fc": (build("fc", seed=0, widths=[32, 32], **shape), {}),
        "cnn": (build("cnn-small", seed=0, **shape), {}),
        "cnn-hardened": (build("cnn-small", seed=1, **shape), {"objective": "fgsm-rs", "threat": "linf:0.1"}),
        "residual": (Residual(), {}),
    }
    made = {}
    for name, (module, changes) in ((name, kinds[name]) for name in names or kinds):
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


def change(model: tb.Model, data: tb.LabelledSet, text: str, gradients: bool = True) -> list[dict[str, Any]]:
    """Every search, and pictures drawn at random, of one network under a set that is no norm ball.

    Of networks that write over what a backward pass needs, the searches that need no gradients.
    """
    rows = []
    found = tb.certify("parameter-splitting", model, data.inputs, data.labels, text, max_cells=CELLS)
    proven = found.certified.nonzero()[:, 0]
    inputs, labels = data.inputs[proven], data.labels[proven]
    for attack in (row.name for row in ATTACKS if row.any_set and (gradients or row.needs != "gradients")):
        started = time.perf_counter()
        params = NUMBERS.get(attack, {})
        success = tb.attack(attack, model, inputs, labels, text, **params).success if len(proven) else torch.zeros(0)
        rows.append((attack, int(success.sum()), time.perf_counter() - started))
    started = time.perf_counter()
    rows.append(("sampled", sampled(model, inputs, labels, text), time.perf_counter() - started))
    told = {"network": model.name, "norm": text, "certifier": "parameter-splitting", "proven": len(proven)}
    made = [{**told, "attack": name, "broken_inside": broken, "seconds": spent} for name, broken, spent in rows]
    for row in made:
        print(row, flush=True)
    return made


def drawn(count: int) -> list[tuple[tb.Model, tb.LabelledSet, str]]:
    """Random networks of pictures, in their own precisions, with what they say of random pictures; and a small set."""
    found: list[tuple[tb.Model, tb.LabelledSet, str]] = []
    for seed in range(50 * count):
        case = make(seed)
        if len(found) == count:
            break
        if case.inputs.ndim != 4 or min(case.inputs.shape[2:]) < 2:
            continue
        model = (
            case.model if isinstance(case.model, tb.Model) else tb.wrap(case.model, box=case.box, name=f"seed {seed}")
        )
        inputs = case.inputs.to(model.input_dtype)
        size = 0.02 * (case.box[1] - case.box[0])
        text = (f"rotation:{1 + seed % 5}", "translation:0.05", f"brightness:{size:.4f}")[seed % 3]
        try:
            with torch.no_grad():
                labels = model(inputs).double().nan_to_num(0.0).argmax(1)
            read(model, inputs)
            found.append((model, tb.LabelledSet(inputs, labels, box=model.box), text))
        except tb.TrustboundError as refusal:
            print(f"seed {seed}: {str(refusal)[:100]}", flush=True)
    return found


def sampled(model: tb.Model, inputs: Tensor, labels: Tensor, text: str) -> int:
    """Of how many examples one of `SAMPLES` pictures, a tenth of them at corners of the set, gets another class."""
    if not len(inputs):
        return 0
    around = tb.Threat.parse(text).perturbations.around(inputs, model.box)
    chance = torch.Generator().manual_seed(0)
    broken = torch.zeros(len(inputs), dtype=torch.bool)
    for number in range(SAMPLES):
        share = torch.rand(len(inputs), len(around.pace), generator=chance, dtype=torch.float64) * 2 - 1
        share = share.sign() if number % 10 == 0 else share
        with torch.no_grad():
            outputs = model(around.apply((share * around.radius[:, None] * around.pace).to(inputs.dtype)))
        broken |= outputs.argmax(1) != labels
    return int(broken.sum())


def main() -> None:
    """Run all pairs, keep the table, fail on any success."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="one network, few examples, nothing written")
    small = parser.parse_args().small
    torch.manual_seed(0)
    data = tb.load_data("digits", split="test", limit=12 if small else EXAMPLES)
    models = list(networks(("cnn",) if small else ()).values())
    rows = [row for model in models for text in CHANGES for row in change(model, data, text)]
    rows += [row for given in drawn(3 if small else 30) for row in change(*given, gradients=False)]
    rows += [
        row for model in models for norm in ("linf", "l2", "l1")[: 1 if small else 3] for row in pair(model, data, norm)
    ]
    tried = sum(row["proven"] for row in rows)
    broken = sum(row["broken_inside"] for row in rows)
    summary = {
        "pairs": len(rows),
        "tried": tried,
        "broken_inside": broken,
        "interval": binomial_interval(broken, tried),
    }
    print(summary)
    if not small:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({"summary": summary, "rows": rows}, indent=1) + "\n")
    if broken:
        raise SystemExit("a certified example was broken")


if __name__ == "__main__":
    main()
