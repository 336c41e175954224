"""What a proof costs against the number of examples, the depth and the width of a network.

    python -m benchmarks.proof_cost          kept in results/proof_cost.json, drawn to results/proof_cost.svg
    python -m benchmarks.proof_cost --write  the table in benchmarks/README.md

Fully connected networks with random weights on real MNIST images under l∞ 0.01, labels as each network answers.
Processor seconds of one thread, the least of three runs: what else the machine does counts for little.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import trustbound as tb
from benchmarks.page import fill
from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.model import build

RESULTS = Path(__file__).parent / "results" / "proof_cost.json"
METHODS = ("interval", "crown", "alpha-crown")
#: What is varied, and what else holds meanwhile: (images, hidden layers, neurons of each).
PANELS: dict[str, list[tuple[int, int, int]]] = {
    "images": [(count, 3, 128) for count in (16, 32, 64, 128, 256)],
    "hidden layers": [(32, depth, 128) for depth in (1, 2, 4, 8)],
    "neurons a layer": [(32, 3, width) for width in (32, 64, 128, 256)],
}
VARIED = {"images": 0, "hidden layers": 1, "neurons a layer": 2}


def seconds(method: str, images: int, depth: int, width: int, data: tb.LabelledSet) -> float:
    """Of one certificate of all images, the reading of the network left out."""
    network = build("fc", seed=0, input_shape=[1, 28, 28], classes=10, widths=[width] * depth)
    model = tb.wrap(network, box=(0.0, 1.0), classes=10)
    inputs = data.inputs[:images]
    with torch.no_grad():
        labels = model(inputs).argmax(1)
    graph, threat, box = read(model, inputs[:2]), tb.Threat.parse("linf:0.01"), model.box
    certify(method, graph, inputs[:2], labels[:2], threat, box=box)  # warms up
    taken = []
    for _ in range(3):
        started = time.process_time()
        certify(method, graph, inputs, labels, threat, box=box)
        taken.append(time.process_time() - started)
    return min(taken)


def exponent(sizes: list[int], times: list[float]) -> float:
    """The slope of seconds against size, both in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


def figure(kept: dict[str, Any]) -> str:
    """Three panels as SVG."""
    drawn = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (panel, lines) in zip(drawn.subplots(1, 3, sharey=True), kept["panels"].items(), strict=True):
        for method, line in lines.items():
            axes.loglog(line["sizes"], line["seconds"], marker="o", markersize=3, label=method)
        axes.set_xlabel(panel)
        axes.set_xticks(line["sizes"], [str(size) for size in line["sizes"]], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    drawn.axes[0].set_ylabel("processor seconds")
    drawn.axes[0].legend(frameon=False)
    path = RESULTS.with_suffix(".svg")
    drawn.savefig(path, metadata={"Date": None})
    return path.name


def table(kept: dict[str, Any]) -> str:
    """Exponents, and the seconds at both ends."""
    lines = ["| method | varied | from | to | seconds | exponent |", "| --- | --- | --- | --- | --- | --- |"]
    for method in METHODS:
        for panel, found in kept["panels"].items():
            line = found[method]
            first, last = line["sizes"][0], line["sizes"][-1]
            lines.append(
                f"| {method} | {panel} | {first} | {last} | {line['seconds'][0]:.3f} to {line['seconds'][-1]:.3f} | "
                f"{exponent(line['sizes'], line['seconds']):.2f} |"
            )
    return "\n".join(lines) + "\n\n![seconds against images, layers and neurons](results/proof_cost.svg)"


def main() -> None:
    """Measure and draw, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        fill("proof-cost", table(json.loads(RESULTS.read_text())))
        return
    torch.set_num_threads(1)
    data = tb.load_data("mnist", split="test", limit=256)
    panels: dict[str, Any] = {}
    for panel, settings in PANELS.items():
        for method in METHODS:
            times = [seconds(method, *setting, data) for setting in settings]
            sizes = [setting[VARIED[panel]] for setting in settings]
            panels.setdefault(panel, {})[method] = {"sizes": sizes, "seconds": times}
            print(panel, method, [round(one, 3) for one in times], f"exponent {exponent(sizes, times):.2f}", flush=True)
    kept = {"panels": panels, "torch": torch.__version__}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    print(figure(kept))


if __name__ == "__main__":
    main()
