"""Complete verification of a 784-256-256-10 network on MNIST: what each certifier decides of 15 images, and when.

    python -m benchmarks.complete [--timeout 20] [--images 15]      kept image by image in results/complete.json
    python -m benchmarks.complete --write                           the table in benchmarks/README.md

The network is trained plainly on MNIST, on first use. Images are correctly classified ones, one call each, so that the
seconds are those of an image. Every counterexample is measured again here: a fresh forward, and its size in float64.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.networks import WEIGHTS, Network, data, train
from benchmarks.page import fill

RESULTS = Path(__file__).parent / "results" / "complete.json"
NETWORK = Network(
    name="mnist-fc-256x2",
    architecture="fc",
    data="mnist",
    threat="linf:0.03",
    recipe={"epochs": 4, "batch_size": 64, "learning_rate": 1e-3},
    arguments={"widths": [256, 256]},
)
EPSILONS, METHODS = (0.03, 0.05), ("crown", "alpha-crown", "branch-and-bound")


def load() -> tb.Model:
    """The network, trained now if it never was."""
    path = WEIGHTS / f"{NETWORK.name}.safetensors"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        train(NETWORK, path)
    return tb.load_model(f"{NETWORK.architecture}:{path}")


def decided(
    model: tb.Model, inputs: torch.Tensor, labels: torch.Tensor, epsilon: float, timeout: float
) -> dict[str, Any]:
    """What every certifier says of one image, and in how many seconds."""
    told: dict[str, Any] = {}
    for method in METHODS:
        params = {"timeout": timeout} if method == "branch-and-bound" else {}
        proof = tb.certify(method, model, inputs, labels, f"linf:{epsilon}", **params)
        verdict = "certified" if bool(proof.certified) else "unknown"
        if proof.falsified is not None and proof.witness is not None and bool(proof.falsified):
            verdict = "falsified"
            size = float((proof.witness.double() - inputs.double()).abs().amax())
            with torch.no_grad():
                again = int(model(proof.witness).argmax(1))
            assert size <= epsilon + 1e-6, size
            assert again != int(labels), again
        told[method] = {"verdict": verdict, "margin": float(proof.margin), "seconds": round(proof.seconds, 2)}
    return told


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| l∞ | images | certifier | certified | falsified | unknown | median seconds | worst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for epsilon in EPSILONS:
        rows = [row for key, row in kept["images"].items() if key.startswith(f"{epsilon} ")]
        for method in METHODS:
            told = [row[method] for row in rows]
            counts = [sum(one["verdict"] == kind for one in told) for kind in ("certified", "falsified", "unknown")]
            seconds = sorted(one["seconds"] for one in told)
            lines.append(
                f"| {epsilon} | {len(rows)} | `{method}` | {counts[0]} | {counts[1]} | {counts[2]} | "
                f"{seconds[len(seconds) // 2]:.2f} | {seconds[-1]:.1f} |"
            )
    return "\n".join(lines) + f"\n\nTime limit of `branch-and-bound`: {kept['timeout']:g} s an image."


def main() -> None:
    """Decide every image that is not kept yet, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--timeout", type=float, default=20.0)
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="write the table into benchmarks/README.md")
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"timeout": given.timeout, "images": {}}
    if given.write:
        fill("complete", table(kept))
        return
    if kept["timeout"] != given.timeout:
        raise SystemExit(f"{RESULTS} holds another time limit, {kept['timeout']:g} s: move it away first")
    model, examples = load(), data(NETWORK, "test", limit=4 * given.images)
    with torch.no_grad():
        right = (model(examples.inputs).argmax(1) == examples.labels).nonzero()[: given.images, 0].tolist()
    for epsilon in EPSILONS:
        for row in right:
            key = f"{epsilon} {row}"
            if key not in kept["images"]:
                one = slice(row, row + 1)
                kept["images"][key] = decided(model, examples.inputs[one], examples.labels[one], epsilon, given.timeout)
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                print(key, kept["images"][key], flush=True)
    print(table(kept))


if __name__ == "__main__":
    main()
