"""ONNX files and VNN-LIB properties: what `trustbound verify` decides of plain networks on MNIST, and when.

    python -m benchmarks.properties [--networks 2 4 6] [--images 15] [--seconds 120]    kept one by one, resumed
    python -m benchmarks.properties --write                        writes the table in benchmarks/README.md

784-256×2, ×4 and ×6 networks, trained plainly on first use, are exported to ONNX; a property asks that a correctly
classified image keeps its class under l∞ 0.03 or 0.05. Every `sat` input is run in onnxruntime here once more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import torch

import trustbound as tb
from benchmarks.networks import WEIGHTS, Network, data, train
from benchmarks.page import fill

RESULTS = Path(__file__).parent / "results" / "properties.json"
EPSILONS = (0.03, 0.05)


def network(layers: int) -> Network:
    """A plain network of so many hidden layers."""
    return Network(
        name=f"mnist-fc-256x{layers}",
        architecture="fc",
        data="mnist",
        threat="linf:0.03",
        recipe={"epochs": 4, "batch_size": 64, "learning_rate": 1e-3},
        arguments={"widths": [256] * layers},
    )


def exported(layers: int, folder: Path) -> tuple[Path, tb.Model]:
    """The network as an ONNX file, trained now if it never was."""
    chosen = network(layers)
    weights = WEIGHTS / f"{chosen.name}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(exist_ok=True)
        train(chosen, weights)
    model = tb.load_model(f"{chosen.architecture}:{weights}")
    path = folder / f"{chosen.name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.module, (torch.zeros(1, 1, 28, 28),), path, dynamo=False)
    return path, model


def decided(path: Path, image: torch.Tensor, label: int, epsilon: float, seconds: float) -> dict[str, Any]:
    """The verdict about one image, read back from the file of its property."""
    asked = path.with_suffix(".vnnlib")
    asked.write_text(tb.Property.robust(image, epsilon, label=label, classes=10).text())
    found = tb.verify(path, asked, timeout=seconds)
    if found.witness is not None:
        session = onnxruntime.InferenceSession(str(path))
        inputs = found.witness.inputs.float().reshape(1, 1, 28, 28)
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        rivals = torch.from_numpy(outputs)[0]
        own = float(rivals[label])
        rivals[label] = -torch.inf
        assert own <= float(rivals.max()), "onnxruntime does not confirm the witness"
        assert float((found.witness.inputs - image.flatten().double()).abs().max()) <= epsilon + 1e-12
    return {"verdict": found.verdict, "reason": found.reason, "seconds": round(found.seconds, 2)}


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| network | l∞ | properties | unsat | sat | open | median seconds | worst |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for layers in (2, 4, 6):
        for epsilon in EPSILONS:
            rows = [row for key, row in kept["properties"].items() if key.startswith(f"{layers} {epsilon} ")]
            if rows:
                unsat, sat = (sum(row["verdict"] == kind for row in rows) for kind in ("unsat", "sat"))
                seconds = sorted(row["seconds"] for row in rows)
                lines.append(
                    f"| 784-256×{layers}-10 | {epsilon} | {len(rows)} | {unsat} | {sat} | {len(rows) - unsat - sat} | "
                    f"{seconds[len(seconds) // 2]:.1f} | {seconds[-1]:.1f} |"
                )
    return "\n".join(lines) + f"\n\nTime limit: {kept['limit']:g} s a property, one thread."


def main() -> None:
    """Decide every property that is not kept yet, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, nargs="+", default=[2, 4, 6])
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--write", action="store_true", help="write the table into benchmarks/README.md")
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"limit": given.seconds, "properties": {}}
    if given.write:
        fill("properties", table(kept))
        return
    if kept["limit"] != given.seconds:
        raise SystemExit(f"{RESULTS} holds another time limit, {kept['limit']:g} s: move it away first")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for layers in given.networks:
            path, model = exported(layers, Path(folder))
            examples = data(network(layers), "test", limit=4 * given.images)
            with torch.no_grad():
                right = (model(examples.inputs).argmax(1) == examples.labels).nonzero()[: given.images, 0].tolist()
            for epsilon in EPSILONS:
                for row in right:
                    key = f"{layers} {epsilon} {row}"
                    if key not in kept["properties"]:
                        label = int(examples.labels[row])
                        kept["properties"][key] = decided(path, examples.inputs[row], label, epsilon, given.seconds)
                        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                        print(key, kept["properties"][key], flush=True)
    print(table(kept))


if __name__ == "__main__":
    main()
