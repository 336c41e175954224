"""Does another batch size change the bracket? 1,000 MNIST images, each verdict compared with that of batch 250."""

from __future__ import annotations

import json
from pathlib import Path

import trustbound as tb
from benchmarks.networks import NETWORKS, data, load

RESULTS = Path(__file__).parent / "results" / "same.json"


def main(name: str = "mnist-cnn", sizes: tuple[int, ...] = (250, 64, 1000)) -> None:
    """Print and keep every verdict that differs, with its margin."""
    model, examples = load(name), data(NETWORKS[name], "test", 1000)
    records = {
        size: tb.audit(model, examples, [NETWORKS[name].threat], budget="quick", curve_examples=0, batch_size=size)
        for size in sizes
    }
    first = records[sizes[0]]
    report: dict[str, object] = {"network": name, "threat": NETWORKS[name].threat, "first": sizes[0]}
    for size in sizes[1:]:
        other = records[size]
        changed = [
            {"index": a.index, "was": a.verdict, "is": b.verdict, "margins": [a.margin, b.margin]}
            for a, b in zip(first.examples, other.examples, strict=True)
            if a.verdict != b.verdict
        ]
        bracket, before = other.brackets[0], first.brackets[0]
        report[f"batch {size}"] = {
            "changed": changed,
            "bracket_change": [bracket.certified - before.certified, bracket.broken - before.broken],
        }
        print(f"batch {size} against {sizes[0]}: {len(changed)} of 1,000 verdicts differ {changed}")
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
