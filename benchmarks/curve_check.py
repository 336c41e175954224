"""Is the security curve as tight as an attack at each of its sizes? Four networks on digits, l∞ and l2.

    python -m benchmarks.curve_check [NETWORK …] [--examples 100]

Each network is trained here in seconds: plainly, adversarially (PGD), for certificates (interval bounds), and a fully
connected one. The curve of a `standard` audit stands beside one `smooth-pgd` and one `apgd`, both with their default
numbers, at every size that it draws. What either breaks at a size it counts as broken at the larger ones too, which
makes the comparison harder than one run a size would. The adversarially trained network is asked again with its logits
x 1e-4 and x 1e4. Results go to `benchmarks/results/curve_check.json` and into the table of benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import trustbound as tb
from benchmarks.page import fill
from trustbound.attacks import attack

RESULTS = Path(__file__).parent / "results" / "curve_check.json"
RIVALS = ("smooth-pgd", "apgd")
EPSILON = {
    "plain": {"linf": 0.08, "l2": 0.4},
    "adversarial": {"linf": 0.15, "l2": 0.55},
    "certified": {"linf": 0.15, "l2": 0.5},
    "connected": {"linf": 0.07, "l2": 0.4},
}
TITLES = {
    "plain": "CNN, plain",
    "adversarial": "CNN, PGD-trained at l∞ 0.15",
    "certified": "CNN, interval-trained at l∞ 0.1",
    "connected": "64-100-100-10, plain",
}


class Rescaled(nn.Module):
    """The same decisions with other logits."""

    def __init__(self, inner: nn.Module, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, *F) → (B, C)."""
        logits: Tensor = self.inner(inputs) * self.scale
        return logits


def network(name: str) -> nn.Sequential:
    """Untrained."""
    torch.manual_seed(0)
    if name == "connected":
        layers = [nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
        return nn.Sequential(nn.Flatten(), *layers)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def attacked(net: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Seven steps of projected ascent."""
    change = (2.0 * torch.rand_like(inputs) - 1.0) * epsilon
    for _ in range(7):
        points = (inputs + change).clamp(0, 1).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(net(points), labels), points)
        change = (points.detach() + epsilon / 3 * slope.sign() - inputs).clamp(-epsilon, epsilon)
    return (inputs + change).clamp(0, 1)


def worst(net: nn.Sequential, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """The least favourable logits inside interval bounds."""
    low, high = (inputs - epsilon).clamp(0, 1), (inputs + epsilon).clamp(0, 1)
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            centre, reach = layer((low + high) / 2), (high - low) / 2
            if isinstance(layer, nn.Linear):
                reach = reach @ layer.weight.abs().T
            else:
                reach = F.conv2d(reach, layer.weight.abs(), None, layer.stride, layer.padding)
            low, high = centre - reach, centre + reach
        else:
            low, high = layer(low), layer(high)
    return torch.where(F.one_hot(labels, 10).bool(), low, high)


def trained(name: str) -> nn.Module:
    """Trained on digits, the size of the threat rising over the first half."""
    examples = tb.load_data("digits", split="train")
    inputs, labels = examples.batch(torch.arange(len(examples))).float(), examples.labels
    net = network(name)
    epochs = {"adversarial": 25, "certified": 40}.get(name, 15)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for epoch in range(epochs):
        share = min(1.0, 2.0 * epoch / epochs)
        for rows in torch.randperm(len(inputs)).split(64):
            points, classes = inputs[rows], labels[rows]
            if name == "adversarial":
                points = attacked(net, points, classes, 0.15 * share)
            loss = F.cross_entropy(net(points), classes)
            if name == "certified":
                bound = F.cross_entropy(worst(net, points, classes, 0.1 * share), classes)
                loss = share / 2 * bound + (1.0 - share / 2) * loss
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return net.eval().requires_grad_(False)


def standing(net: nn.Module, data: tb.LabelledSet, norm: str, epsilons: tuple[float, ...], name: str) -> list[float]:
    """The share that one attack leaves at each size, having been run at all smaller ones too."""
    inputs = data.batch(torch.arange(len(data))).float()
    left = net(inputs).argmax(1) == data.labels
    shares = [float(left.double().mean())]
    for epsilon in epsilons[1:]:
        rows = left.nonzero()[:, 0]
        if len(rows):
            found = attack(name, tb.wrap(net), inputs[rows], data.labels[rows], f"{norm}:{epsilon!r}")
            left[rows[found.success]] = False
        shares.append(float(left.double().mean()))
    return shares


def examine(net: nn.Module, name: str, norm: str, data: tb.LabelledSet, scale: float, known: dict[str, Any]) -> Any:
    """One curve beside the attacks; what these leave is `known` where only the scale is another."""
    model = tb.wrap(net if scale == 1.0 else Rescaled(net, scale))
    threat = f"{norm}:{EPSILON[name][norm]}"
    record = tb.audit(model, data, [threat], budget="standard", curve_examples=len(data))
    curve, bracket = record.curves[0], record.brackets[0]
    left = known or {runner_up: standing(net, data, norm, curve.epsilons, runner_up) for runner_up in RIVALS}
    excess = {
        runner_up: max(100.0 * (ours - theirs) for ours, theirs in zip(curve.upper, shares, strict=True))
        for runner_up, shares in left.items()
    }
    return {
        "network": name,
        "threat": threat,
        "scale": scale,
        "examples": len(data),
        "epsilons": curve.epsilons,
        "upper": curve.upper,
        "lower": curve.lower,
        "standing": left,
        "excess": excess,
        "crossings": sum(low > high for low, high in zip(curve.lower, curve.upper, strict=True)),
        "bracket": [bracket.lower, bracket.upper],
        "forwards": curve.cost.forwards / len(data),
        "backwards": curve.cost.backwards / len(data),
        "exit_code": record.exit_code,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| network, threat | logits × | most above smooth-pgd | above apgd | forwards, backwards an example |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        above = " | ".join(f"{row['excess'][runner_up]:+.1f} points" for runner_up in RIVALS)
        norm, _, epsilon = row["threat"].partition(":")
        lines.append(
            f"| {TITLES[row['network']]}, {norm.replace('linf', 'l∞')} {epsilon} | {row['scale']:g} | {above} | "
            f"{row['forwards']:.0f}, {row['backwards']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(EPSILON))
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    data = tb.load_data("digits", split="test").stratified(options.examples)
    kept = {title: row for title, row in json.loads(RESULTS.read_text()).items()} if RESULTS.exists() else {}
    for name in options.networks:
        net = trained(name)
        for norm in ("linf", "l2"):
            known: dict[str, Any] = {}
            for scale in (1.0, 1e-4, 1e4) if name == "adversarial" else (1.0,):
                row = examine(net, name, norm, data, scale, known)
                known = row["standing"]
                kept[f"{name}, {row['threat']}, x {scale:g}"] = row
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
                print(name, row["threat"], scale, row["excess"], row["crossings"], row["forwards"], flush=True)
    order = [row for name in EPSILON for row in kept.values() if row["network"] == name]
    fill("curve", table(order))


if __name__ == "__main__":
    main()
