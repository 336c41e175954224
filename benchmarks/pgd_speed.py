"""PGD-40 on 1,000 MNIST images: our engine beside a hand-written loop and the peers, one run, alternating.

Every run of a contender stands between two runs of the loop by hand; its figure is the median over rounds of its time
by theirs. The spread of the loop by hand against its own neighbours is the noise. The bare loop is forward and backward
to the input, nothing else.
Pin it (`make bench` does): two OpenMP threads that land on one core make a second of work last twenty.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import trustbound as tb
from benchmarks.networks import load

EPSILON, STEP, STEPS, BATCH = 0.3, 0.01, 40, 250


def bare(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """40 forwards and backwards to the input, no attack: the unit."""
    for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
        for _ in range(STEPS):
            leaf = part.detach().requires_grad_(True)
            loss = nn.functional.cross_entropy(model(leaf), wanted, reduction="sum")
            torch.autograd.grad(loss, leaf)


def by_hand(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The loop that everybody writes, as lean as it gets."""
    found = []
    for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
        floor, ceiling = (part - EPSILON).clamp_(min=0), (part + EPSILON).clamp_(max=1)
        point = torch.empty_like(part).uniform_(-EPSILON, EPSILON).add_(part).clamp_(floor, ceiling)
        for _ in range(STEPS):
            point.requires_grad_(True)
            loss = nn.functional.cross_entropy(model(point), wanted, reduction="sum")
            gradient = torch.autograd.grad(loss, point)[0]
            point = point.detach().add_(gradient.sign_(), alpha=STEP).clamp_(floor, ceiling)
        found.append(point)
    return torch.cat(found)


def contenders(model: tb.Model, inputs: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """Everything that runs, by name; peers that are not installed are left out."""
    module = model.module
    params = {"steps": STEPS, "step_size": STEP, "batch_size": BATCH}

    def engine(**more: bool) -> tb.AttackResult:
        return tb.attack("pgd", model, inputs, labels, f"linf:{EPSILON}", **params, **more)

    entries: dict[str, Callable[[], object]] = {
        "by hand": lambda: by_hand(module, inputs, labels),
        "bare loop": lambda: bare(module, inputs, labels),
        "trustbound": lambda: engine(stop_early=False),
        "trustbound, active set": lambda: engine(),
        "trustbound, compiled": lambda: engine(stop_early=False, compile=True),
    }
    try:
        import torchattacks

        peer = torchattacks.PGD(module, eps=EPSILON, alpha=STEP, steps=STEPS, random_start=True)
        entries["torchattacks"] = lambda: [
            peer(part, wanted) for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
        ]
    except ImportError:
        print("torchattacks is not installed: left out")
    try:
        import foolbox

        wrapped = foolbox.PyTorchModel(module, bounds=(0, 1))
        run = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)
        entries["foolbox"] = lambda: [
            run(wrapped, part, wanted, epsilons=EPSILON)
            for part, wanted in zip(inputs.split(BATCH), labels.split(BATCH), strict=True)
        ]
    except ImportError:
        print("foolbox is not installed: left out")
    try:
        from art.attacks.evasion import ProjectedGradientDescent
        from art.estimators.classification import PyTorchClassifier

        classifier = PyTorchClassifier(
            module, nn.CrossEntropyLoss(), input_shape=(1, 28, 28), nb_classes=10, clip_values=(0, 1), device_type="cpu"
        )
        art = ProjectedGradientDescent(
            classifier, eps=EPSILON, eps_step=STEP, max_iter=STEPS, num_random_init=1, batch_size=BATCH, verbose=False
        )
        images, answers = inputs.numpy(), labels.numpy()
        entries["ART"] = lambda: art.generate(images, answers)
    except ImportError:
        print("ART is not installed: left out")
    return entries


def main(rounds: int = 11) -> dict[str, float]:
    """Alternate, repeat, print medians of ratios with their quartiles."""
    model = load("mnist-cnn")
    for weight in model.parameters():
        weight.requires_grad_(False)
    data = tb.load_data("mnist", split="test", limit=1000)
    inputs, labels = data.inputs, data.labels
    entries = contenders(model, inputs, labels)
    ratios: dict[str, list[float]] = {name: [] for name in entries}
    hand = []
    for run in entries.values():
        run()  # warms up, compiles
    for _ in range(rounds):
        before = seconds(entries["by hand"])
        for name, run in entries.items():
            taken, after = seconds(run), seconds(entries["by hand"])
            ratios[name].append(2 * taken / (before + after))
            before = after
            hand.append(after)
    print(f"PGD-40, 1,000 MNIST images, cnn-small; loop by hand {statistics.median(hand):.2f} s = 1.00")
    for name, values in ratios.items():
        first, middle, third = statistics.quantiles(values, n=4)
        print(f"  {name:<26}{middle:6.3f} (quartiles {first:.3f} to {third:.3f}, least {min(values):.3f})", flush=True)
    found = tb.attack("pgd", model, inputs, labels, f"linf:{EPSILON}", steps=STEPS, step_size=STEP, batch_size=BATCH)
    print(f"  active set: {found.cost.forwards:,} forwards, {found.cost.backwards:,} backwards of {1000 * STEPS:,}")
    return {name: statistics.median(values) for name, values in ratios.items()}


def seconds(run: Callable[[], object]) -> float:
    """Of one run."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
