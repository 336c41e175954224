"""The reference under l2 and l1: the original AutoAttack as packaged in `pyautoattack`, every evaluation counted.

Its `standard` version and nothing else sets the numbers. l2: APGD with CE once for 100 steps, targeted APGD on 9
targets, targeted FAB on 9 targets with 100 steps, Square with 5,000 queries. l1: APGD in its l1 form (sparse steps, the
radius coming down from 3ε over 2ε), 5 starts with CE and 5 targets; FAB and Square as under l2, in their l1 forms. Each
attack gets what the one before left. Fewer classes than targets cut the targets.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.reference import Counted, Reference

NAMES = {"l2": "L2", "l1": "L1"}
RELATIVE, OUTSIDE = 1e-5, 1e-6


def attacks(model: nn.Module, norm: str, epsilon: float, seed: int, classes: int) -> dict[str, Any]:
    """The four attacks in their published order."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    suite = AutoAttack(model, norm=NAMES[norm], eps=epsilon, seed=seed, version="standard")
    suite.apgd.loss = "ce"
    suite.fab.targeted = True
    for targeted in (suite.apgd_targeted, suite.fab):
        targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
    return {"apgd-ce": suite.apgd, "apgd-t": suite.apgd_targeted, "fab-t": suite.fab, "square": suite.square}


def inside(inputs: Tensor, adversarial: Tensor, norm: str, epsilon: float) -> Tensor:
    """Which rows keep the radius and the box, measured in float64; both give way to float32 rounding."""
    moved = (adversarial.double() - inputs.double()).flatten(1)
    size = moved.norm(p=2 if norm == "l2" else 1, dim=1)
    beyond = torch.maximum(-adversarial, adversarial - 1.0).flatten(1).amax(dim=1)
    return (size <= epsilon * (1.0 + RELATIVE)) & (beyond <= OUTSIDE)


def autoattack(
    model: nn.Module, inputs: Tensor, labels: Tensor, norm: str, epsilon: float, seed: int, batch_size: int = 500
) -> Reference:
    """Run the four attacks on correctly classified examples; weights, their gradients and random state stay."""
    thawed = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in thawed:
        weight.requires_grad_(False)
    try:
        with torch.random.fork_rng(devices=[]):
            return _run(model, inputs, labels, norm, epsilon, seed, batch_size)
    finally:
        for weight in thawed:
            weight.requires_grad_(True)


def _run(
    model: nn.Module, inputs: Tensor, labels: Tensor, norm: str, epsilon: float, seed: int, batch_size: int
) -> Reference:
    counted = Counted(model).eval()
    with torch.no_grad():
        logits = torch.cat([model(part) for part in inputs.split(batch_size)])
    left = logits.argmax(dim=1) == labels
    trail = []
    for title, attack in attacks(counted, norm, epsilon, seed, logits.shape[1]).items():
        counted.forwards = counted.backwards = refused = 0
        started = time.perf_counter()
        for rows in left.nonzero()[:, 0].split(batch_size):
            adversarial = attack.perturb(inputs[rows].clone(), labels[rows].clone()).detach()
            with torch.no_grad():
                broken = model(adversarial).argmax(dim=1) != labels[rows]
            allowed = inside(inputs[rows], adversarial, norm, epsilon)
            left[rows[broken & allowed]] = False
            refused += int((broken & ~allowed).sum())
        trail.append(
            {
                "attack": title,
                "unbroken": int(left.sum()),
                "refused": refused,
                "forwards": counted.forwards,
                "backwards": counted.backwards,
                "seconds": time.perf_counter() - started,
            }
        )
        print(f"  reference seed {seed}: {trail[-1]}", flush=True)
    return Reference(unbroken=left, trail=trail)
