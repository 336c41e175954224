"""ONNX files and VNN-LIB properties: what `trustbound verify` decides of networks on MNIST, and when.

    python -m benchmarks.properties [--networks 2 4 6 conv sigmoid] [--images 15]   kept one by one, resumed
    python -m benchmarks.properties --seconds 30                   another time limit than the network's own
    python -m benchmarks.properties --write                        table and cactus plot for benchmarks/README.md

784-256×2, ×4 and ×6 networks, a convolutional one trained against l∞ 0.1 and one of sigmoids, trained on first use, are
exported to ONNX; a property asks that a correctly classified image keeps its class under l∞. Every `sat` input is run
in onnxruntime here once more. Two threads; a property that was decided under another time limit is asked again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

import trustbound as tb
from benchmarks.networks import WEIGHTS, Network, data, train
from benchmarks.page import fill
from trustbound.report.figures.canvas import SMALL, panel, picture, sheet
from trustbound.report.figures.palette import colour

RESULTS = Path(__file__).parent / "results" / "properties.json"
PLAIN = {"epochs": 4, "batch_size": 64, "learning_rate": 1e-3}
HARDENED = {"objective": "fgsm-rs", "threat": "linf:0.1", "epochs": 4, "batch_size": 128, "learning_rate": 2e-3}
#: Images that properties are drawn from, whatever is asked: the first that are classified rightly.
DRAWN = 60


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One network: what it is called, what it is, sizes of the properties and seconds for each."""

    title: str
    network: Network
    epsilons: tuple[float, ...]
    seconds: float


def plain(layers: int) -> Network:
    """A plain network of so many hidden layers of 256 ReLUs."""
    return Network(
        name=f"mnist-fc-256x{layers}",
        architecture="fc",
        data="mnist",
        threat="linf:0.03",
        recipe=PLAIN,
        arguments={"widths": [256] * layers},
    )


SUBJECTS = {
    **{
        str(layers): Subject(
            title=f"784-256×{layers}-10", network=plain(layers), epsilons=(0.03, 0.05), seconds=seconds
        )
        for layers, seconds in ((2, 120.0), (4, 300.0), (6, 300.0))
    },
    "conv": Subject(
        title="small CNN, trained against l∞ 0.1",
        network=Network(
            name="mnist-cnn-fgsm-0.1", architecture="cnn-small", data="mnist", threat="linf:0.1", recipe=HARDENED
        ),
        epsilons=(0.05, 0.1),
        seconds=300.0,
    ),
    "sigmoid": Subject(
        title="784-100×3-10, sigmoid",
        network=Network(
            name="mnist-fc-sigmoid-100x3",
            architecture="fc",
            data="mnist",
            threat="linf:0.02",
            recipe=PLAIN,
            arguments={"widths": [100] * 3, "activation": "sigmoid"},
        ),
        epsilons=(0.02, 0.04),
        seconds=120.0,
    ),
}


def exported(network: Network, folder: Path) -> tuple[Path, tb.Model]:
    """The network as an ONNX file, trained now if it never was."""
    weights = WEIGHTS / f"{network.name}.safetensors"
    if not weights.exists():
        weights.parent.mkdir(exist_ok=True)
        train(network, weights)
    model = tb.load_model(f"{network.architecture}:{weights}")
    path = folder / f"{network.name}.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.module, (torch.zeros(1, 1, 28, 28),), path, dynamo=False)
    return path, model


def decided(path: Path, image: torch.Tensor, label: int, epsilon: float, seconds: float) -> dict[str, Any]:
    """The verdict about one image, read back from the file of its property."""
    asked = path.with_suffix(".vnnlib")
    asked.write_text(tb.Property.robust(image, epsilon, label=label, classes=10).text())
    processor = time.process_time()
    found = tb.verify(path, asked, timeout=seconds)
    processor = time.process_time() - processor
    if found.witness is not None:
        session = onnxruntime.InferenceSession(str(path))
        inputs = found.witness.inputs.float().reshape(1, 1, 28, 28)
        (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        rivals = torch.from_numpy(outputs)[0]
        own = float(rivals[label])
        rivals[label] = -torch.inf
        assert own <= float(rivals.max()), "onnxruntime does not confirm the witness"
        assert float((found.witness.inputs - image.flatten().double()).abs().max()) <= epsilon + 1e-12
    told = {"verdict": found.verdict, "reason": found.reason, "limit": seconds}
    return told | {"seconds": round(found.seconds, 2), "processor": round(processor, 2)}


def chosen(kept: dict[str, Any], name: str, epsilon: float) -> list[dict[str, Any]]:
    """What was measured of one network at one size."""
    return [row for key, row in kept.items() if key.startswith(f"{name} {epsilon} ")]


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| network | l∞ | limit, s | properties | unsat | sat | open | median s | worst | processor s in all |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    plain_solved = plain_asked = 0
    for name, subject in SUBJECTS.items():
        for epsilon in subject.epsilons:
            rows = chosen(kept, name, epsilon)
            if not rows:
                continue
            unsat, sat = (sum(row["verdict"] == kind for row in rows) for kind in ("unsat", "sat"))
            seconds, open_ = sorted(row["seconds"] for row in rows), len(rows) - unsat - sat
            limits = ", ".join(f"{limit:g}" for limit in sorted({row["limit"] for row in rows}))
            cells = (subject.title, epsilon, limits, len(rows), unsat, sat, open_)
            spent = (f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}")
            spent += (f"{sum(row['processor'] for row in rows):,.0f}",)
            lines.append("| " + " | ".join(map(str, (*cells, *spent))) + " |")
            if name.isdigit():
                plain_solved, plain_asked = plain_solved + unsat + sat, plain_asked + len(rows)
    return "\n".join(lines) + f"\n\nOf the plain ReLU networks {plain_solved} of {plain_asked} are decided."


def cactus(kept: dict[str, Any]) -> str:
    """How many properties of each network are decided within so many seconds each."""
    width, height = 640.0, 320.0
    ways = {name: sorted(row["seconds"] for row in rows) for name, rows in _decided(kept).items()}
    roles = ("certified", "broken", "misclassified", "pass", "ink")

    def drawing(figure: Figure) -> None:
        sheet(figure, width, height)
        axes = panel(figure, (width, height), left=60, top=24, width=width - 80, height=height - 72)
        for (name, seconds), role, mark in zip(ways.items(), roles, "os^Dv", strict=False):
            counts = range(1, len(seconds) + 1)
            axes.plot(counts, seconds, mark, color=colour(role), markersize=3.5, markeredgewidth=0)
            axes.step(counts, seconds, where="pre", color=colour(role), linewidth=1.6, label=SUBJECTS[name].title)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(axis="y")
        axes.set_xlabel("properties decided", fontsize=SMALL)
        axes.set_ylabel("seconds each", fontsize=SMALL)
        axes.legend(fontsize=SMALL, frameon=False)

    said = [f"{SUBJECTS[name].title}: {len(seconds)} decided." for name, seconds in ways.items()]
    return picture(
        drawing,
        name="properties",
        title="Properties decided within so many seconds each",
        description=" ".join(said),
        width=width,
        height=height,
        standalone=True,
    )


def _decided(kept: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The decided properties of each network that was asked."""
    rows = {
        name: [row for epsilon in subject.epsilons for row in chosen(kept, name, epsilon)]
        for name, subject in SUBJECTS.items()
    }
    return {name: [row for row in part if row["verdict"] in ("sat", "unsat")] for name, part in rows.items() if part}


def main() -> None:
    """Decide every property that is not kept yet, or write table and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--images", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=None, help="for each property, in place of the network's own")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write table and plot for benchmarks/README.md")
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text())["properties"] if RESULTS.exists() else {}
    if given.write:
        fill("properties", table(kept))
        RESULTS.with_suffix(".svg").write_text(cactus(kept), encoding="utf-8")
        return
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            subject = SUBJECTS[name]
            seconds = subject.seconds if given.seconds is None else given.seconds
            path, model = exported(subject.network, Path(folder))
            examples = data(subject.network, "test", limit=DRAWN)
            with torch.no_grad():
                right = (model(examples.inputs).argmax(1) == examples.labels).nonzero()[: given.images, 0].tolist()
            for epsilon in subject.epsilons:
                for row in right:
                    key = f"{name} {epsilon} {row}"
                    if kept.get(key, {}).get("limit") != seconds:
                        label = int(examples.labels[row])
                        kept[key] = decided(path, examples.inputs[row], label, epsilon, seconds)
                        RESULTS.write_text(json.dumps({"properties": kept}, indent=1) + "\n")
                        print(key, kept[key], flush=True)
    print(table(kept))


if __name__ == "__main__":
    main()
