"""What proofs that go where they pay leave out: an audit's lower bound beside that of proving everything.

    python -m benchmarks.proofs_kept [--limit 100]     kept row by row in results/proofs_kept.json, and the table

An audit asks a dear certifier about the largest margins first and stops where a block proves next to nothing; what an
attack broke is not asked about, but for the control group. Here every certifier that the budget knows is then asked
about every image that is classified rightly. The six MNIST rows are those of the comparison with AutoAttack (three
networks, seen and unseen draw); little is proven at such sizes, so that three rows at smaller ones follow.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import trustbound as tb
from benchmarks.networks import NETWORKS, data, load
from benchmarks.page import fill
from trustbound.audits.stages.proving import certifiers
from trustbound.audits.work_units.subject import Subject

RESULTS = Path(__file__).parent / "results" / "proofs_kept.json"
NAMES = ("mnist-cnn-hardened", "mnist-cnn", "mnist-fc")
SMALLER = {"mnist-cnn-hardened": "linf:0.02", "mnist-cnn": "linf:0.02", "mnist-fc": "linf:0.02"}
ROWS = [(name, draw, NETWORKS[name].threat) for draw in (0, 1) for name in NAMES]
ROWS += [(name, 1, SMALLER[name]) for name in NAMES]


def measured(name: str, draw: int, text: str, limit: int) -> dict[str, Any]:
    """One row: certified by the standard audit, and by all of its certifiers on everything."""
    torch.set_num_threads(1)
    model, examples = load(name, draw), data(NETWORKS[name], "test", limit, draw)
    threat = tb.Threat.parse(text)
    started = time.process_time()
    bracket = tb.audit(model, examples, [threat], curve_examples=0).brackets[0]
    audited = time.process_time() - started
    subject = Subject(model=model, data=examples, threats={text: threat})
    names, _ = certifiers(subject, threat, "standard")
    started = time.process_time()
    with torch.no_grad():
        right = model(examples.inputs.float()).argmax(1) == examples.labels
    proven = torch.zeros(len(examples), dtype=torch.bool)
    inputs, labels = examples.inputs[right].float(), examples.labels[right]
    for certifier in names:
        found = tb.certify(certifier, subject.graph, inputs, labels, threat, box=model.box)
        proven[right.nonzero()[:, 0]] |= found.certified
    return {
        "network": name,
        "draw": draw,
        "threat": text,
        "images": len(examples),
        "certifiers": names,
        "audit": bracket.certified,
        "everything": int(proven.sum()),
        "unbroken": bracket.certified + bracket.unknown,
        "audit_seconds": round(audited, 1),
        "proof_seconds": round(time.process_time() - started, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """For people."""
    lines = [
        "| network, draw, threat | images | proven by the audit | by proving everything | share | unbroken | audit, "
        "all of it | proving everything |",
        "| --- " * 8 + "|",
    ]
    for row in rows:
        share = "–" if not row["everything"] else f"{row['audit'] / row['everything']:.1%}"
        lines.append(
            f"| {row['network']}, {row['draw']}, {row['threat']} | {row['images']} | {row['audit']} | "
            f"{row['everything']} | {share} | {row['unbroken']} | {row['audit_seconds']:.0f} s | "
            f"{row['proof_seconds']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=100)
    limit = parser.parse_args().limit
    rows = []
    for name, draw, text in ROWS:
        rows.append(measured(name, draw, text, limit))
        RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(rows[-1]), flush=True)
    fill("proofs-kept", table(rows))


if __name__ == "__main__":
    main()
