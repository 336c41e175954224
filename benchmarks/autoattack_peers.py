"""Our FAB, FAB-T and Square beside the original authors' (pyautoattack): unbroken, evaluations, seconds.

    python -m benchmarks.autoattack_peers [ATTACK …] [--networks NETWORK …] [--limit 60] [--numbers 200 1000 …]
    python -m benchmarks.autoattack_peers --write

The first runs what `benchmarks/results/autoattack_peers.json` lacks, both sides in turn, and keeps each run as it is
made, so that it can be stopped and started again. Both get the same images, answered rightly, and seed 0. FAB and FAB-T
take 100 steps, FAB-T 9 targets, Square so many queries with AutoAttack's share 0.8 and its schedule stretched to them.
The second writes the table into benchmarks/README.md. Seconds are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trustbound as tb
from benchmarks.other_networks import OTHERS, load_other, other_data
from benchmarks.page import fill
from benchmarks.reference import Counted
from benchmarks.reference_norms import inside

RESULTS = Path(__file__).parent / "results" / "autoattack_peers.json"
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
# Networks of draw 0 of `benchmarks.other_networks` → threats at which about half of the images stand.
NETWORKS = {
    "mnist-fgsm": ("linf:0.31", "l2:1.7", "l1:8"),
    "mnist-pgd": ("linf:0.3", "l2:1.5", "l1:8"),
    "mnist-trades": ("linf:0.2", "l2:1.5", "l1:8"),
    "mnist-plain": ("linf:0.1", "l2:1.4", "l1:8"),
    "letters-fgsm": ("linf:0.1", "l2:1", "l1:5"),
}
# Steps or queries.
NUMBERS = {"fab": (100,), "fab-t": (100,), "square": (200, 1000, 2000, 5000)}


def images(name: str, model: tb.Model, limit: int) -> tuple[Tensor, Tensor]:
    """The first images of draw 0 that the model answers rightly, with their labels."""
    examples = other_data(OTHERS[name, 0], "test", 4 * limit)
    with torch.no_grad():
        right = (model(examples.inputs).argmax(dim=1) == examples.labels).nonzero()[:limit, 0]
    return examples.inputs[right], examples.labels[right]


def original(name: str, counted: Counted, threat: tb.Threat, number: int, classes: int) -> Any:
    """The attack as its authors wrote it."""
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    settings = {
        "norm": NAMES[threat.perturbations.norm],
        "eps": threat.perturbations.epsilon,
        "seed": 0,
        "device": "cpu",
    }
    if name == "square":
        return SquareAttack(counted, n_queries=number, p_init=0.8, **settings)
    targets = min(9, classes - 1)
    return FABAttack_PT(counted, n_iter=number, targeted=name == "fab-t", n_target_classes=targets, **settings)


def theirs(
    name: str, model: tb.Model, inputs: Tensor, labels: Tensor, threat: tb.Threat, number: int
) -> dict[str, Any]:
    """The original; a success outside of what is allowed counts for nothing."""
    counted = Counted(model)
    attack = original(name, counted, threat, number, model.classes)
    started = time.perf_counter()
    adversarial = attack.perturb(inputs.clone(), labels.clone()).detach()
    seconds = time.perf_counter() - started
    with torch.no_grad():
        broken = model(adversarial).argmax(dim=1) != labels
    if threat.perturbations.norm == "linf":
        allowed = threat.perturbations.around(inputs, model.box).contains(adversarial)
    else:
        allowed = inside(inputs, adversarial, threat.perturbations.norm, threat.perturbations.epsilon)
    return {
        "unbroken": int((~broken | ~allowed).sum()),
        "forwards": counted.forwards,
        "backwards": counted.backwards,
        "seconds": round(seconds, 1),
    }


def ours(name: str, model: tb.Model, inputs: Tensor, labels: Tensor, threat: tb.Threat, number: int) -> dict[str, Any]:
    """Ours with its default parameters, ended for an example by its first success inside the radius."""
    numbers: dict[str, Any] = {"steps": number} if name == "square" else {"steps": number, "seeks": "any"}
    asked = f"{threat};access=scores" if name == "square" else str(threat)
    found = tb.attack(name, model, inputs, labels, asked, **numbers)
    return {
        "unbroken": int((~found.success).sum()),
        "forwards": found.cost.forwards,
        "backwards": found.cost.backwards,
        "seconds": round(found.cost.seconds, 1),
    }


def table(kept: dict[str, Any]) -> str:
    """What was measured, as Markdown: each pair is the reference's, ours."""
    lines = [
        "| attack, steps or queries | network, threat | images | unbroken | forwards an image | backwards | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for key, row in kept.items():
        if not {"reference", "ours"} <= set(row):
            continue
        attack, network, threat, count, number = key.split()
        sides = row["reference"], row["ours"]
        costs = (", ".join(f"{side[what] / int(count):,.0f}" for side in sides) for what in ("forwards", "backwards"))
        unbroken = ", ".join(str(side["unbroken"]) for side in sides)
        seconds = ", ".join(f"{side['seconds']:.1f}" for side in sides)
        cells = [f"{attack}, {number}", f"{network}, {threat}", count, unbroken, *costs, seconds]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", default=list(NUMBERS))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--numbers", type=int, nargs="+")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.write:
        fill("autoattack-peers", table(kept))
        return
    torch.set_num_threads(1)
    for attack in options.attacks:
        for number in options.numbers or NUMBERS[attack]:  # the dear ones last
            for name in options.networks:
                model = load_other(name)
                inputs, labels = images(name, model, options.limit)
                for text in NETWORKS[name]:
                    row = kept.setdefault(f"{attack} {name} {text} {len(inputs)} {number}", {})
                    for who, run in (("ours", ours), ("reference", theirs)):
                        if who not in row:
                            row[who] = run(attack, model, inputs, labels, tb.Threat.parse(text), number)
                            RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                            print(attack, name, text, number, who, row[who], flush=True)


if __name__ == "__main__":
    main()
