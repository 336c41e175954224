"""How often do the checks condemn an honest audit? Whole audits of honest networks, written down before any ran.

2, 10, 26, 100, 200 and 1,000 classes; accuracies from 40 to 99 % by stopping the training early; float32 and bfloat16;
adversarially trained ones; log-probabilities and logits of odd scales. Real data: MNIST, digits side by side (100 and
1,000 classes), digits side by side in one of two colours (200), EMNIST letters. Needs $TRUSTBOUND_DATA.

    python -m benchmarks.honest_zoo [--only NAME …] [--budget quick]     kept one by one in results/honest_zoo.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import trustbound as tb
from benchmarks.zoos import _ascended, _letters
from trustbound.audits.checks.registry import CHECKS
from trustbound.data import LabelledSet, load_data
from trustbound.record.audit import AuditRecord
from trustbound.record.binomial import binomial_interval

RESULT = Path(__file__).parent / "results" / "honest_zoo.json"

#: Examples of each audit.
SHOWN = 200


class Scaled(nn.Module):
    """The logits times a constant: the same decisions."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs) * self.factor
        return outputs


@dataclass(frozen=True, kw_only=True)
class Honest:
    """One honest network.

    Parameters
        data        makes what it learns from and what it is shown.
        net         makes it untrained.
        stop        accuracy on held-out examples at which training ends; 1 trains to the end.
        epsilon     of the l∞ PGD examples that it is trained on, 0 for none.
        form        "", "log-softmax", or a factor of the logits.
    """

    name: str
    data: Callable[[], tuple[LabelledSet, LabelledSet]]
    net: Callable[[], nn.Module]
    threat: str = "linf:0.05"
    epochs: int = 4
    stop: float = 1.0
    epsilon: float = 0.0
    dtype: torch.dtype = torch.float32
    form: str | float = ""


def _mnist(keep: tuple[int, ...] = tuple(range(10)), of: Callable[[Tensor], Tensor] | None = None) -> Any:
    """MNIST's digits `keep`, their labels counted anew or by `of`."""

    def made() -> tuple[LabelledSet, LabelledSet]:
        parts = []
        for split, limit in (("train", 6000), ("test", 1500)):
            whole = load_data("mnist", split=split, limit=limit)
            rows = torch.isin(whole.labels, torch.tensor(keep)).nonzero()[:, 0]
            known = torch.tensor([keep.index(int(label)) for label in whole.labels[rows]])
            labels = known if of is None else of(whole.labels[rows]).long()
            pictures = (whole.batch(rows) * 255).round().to(torch.uint8)
            parts.append(LabelledSet(pictures, labels, name=f"mnist/{split}"))
        return parts[0], parts[1]

    return made


def _beside(digits: int, *, coloured: bool = False) -> Callable[[], tuple[LabelledSet, LabelledSet]]:
    """Digits side by side, the class their number; in red or green, which doubles the classes."""

    def made() -> tuple[LabelledSet, LabelledSet]:
        parts = []
        for split, limit, count, seed in (("train", 20_000, 8000, 1), ("test", 6000, 1500, 2)):
            whole = load_data("mnist", split=split, limit=limit)
            generator = torch.Generator().manual_seed(seed)
            rows = torch.randint(0, len(whole), (count, digits), generator=generator)
            places = 10 ** torch.arange(digits - 1, -1, -1)
            labels = (whole.labels[rows] * places).sum(dim=1)
            # uint8 at once: a thousand classes need many pictures.
            pictures = torch.cat(
                [(whole.batch(rows[:, k]) * 255).round().to(torch.uint8) for k in range(digits)], dim=3
            )
            if coloured:
                colour = torch.randint(0, 2, (count,), generator=generator)
                pictures = pictures.repeat(1, 3, 1, 1)
                pictures[:, 2] = 0
                pictures[torch.arange(count), colour] //= 3  # red or green is dim
                labels = 2 * labels + colour
            parts.append(LabelledSet(pictures, labels, name=f"{digits} digits/{split}"))
        return parts[0], parts[1]

    return made


def _dense(features: int, classes: int, width: int = 64) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(features, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def _conv(classes: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(1, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, classes),
    )


def _reader(digits: int, *, coloured: bool = False, width: int = 96) -> Callable[[], nn.Module]:
    """One reader of digits moved over the picture, and a last layer that starts as the sum of its digits' logits."""

    def made() -> nn.Module:
        channels, said = (3, 12) if coloured else (1, 10)
        classes = 10**digits * (2 if coloured else 1)
        last = nn.Linear(said * digits, classes)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
            for label in range(classes):
                number = label // 2 if coloured else label
                for place in range(digits):
                    digit = number // 10 ** (digits - 1 - place) % 10
                    last.weight[label, digit * digits + place] = 1.0  # channels first, then places
                    if coloured:
                        last.weight[label, (10 + label % 2) * digits + place] = 1.0
        head = nn.Conv2d(channels, width, 28, stride=28)
        return nn.Sequential(head, nn.ReLU(), nn.Conv2d(width, said, 1), nn.Flatten(), last)

    return made


HALF = torch.bfloat16
ODD = _mnist(of=lambda labels: labels % 2)
THREE = _mnist(of=lambda labels: labels == 3)

ZOO = (
    Honest(name="10 conv", data=_mnist(), net=_conv(10), threat="linf:0.1"),
    Honest(name="10 conv PGD-trained", data=_mnist(), net=_conv(10), threat="linf:0.1", epsilon=0.15),
    Honest(name="10 conv bfloat16", data=_mnist(), net=_conv(10), dtype=HALF),
    Honest(name="10 dense stopped at 40 %", data=_mnist(), net=_dense(784, 10), stop=0.4, threat="linf:0.02"),
    Honest(name="10 dense stopped at 60 %", data=_mnist(), net=_dense(784, 10), stop=0.6, threat="l2:0.5"),
    Honest(name="10 dense log-softmax", data=_mnist(), net=_dense(784, 10), form="log-softmax"),
    Honest(name="10 dense logits x 1e4", data=_mnist(), net=_dense(784, 10), form=1e4),
    Honest(name="10 dense logits x 1e-6", data=_mnist(), net=_dense(784, 10), form=1e-6, threat="l2:1"),
    Honest(name="2 one against the others", data=THREE, net=_dense(784, 2)),
    Honest(name="2 three or eight bfloat16", data=_mnist((3, 8)), net=_conv(2), dtype=HALF),
    Honest(name="2 odd stopped at 60 %", data=ODD, net=_dense(784, 2), stop=0.6, threat="l2:0.5"),
    Honest(name="2 four or nine PGD-trained", data=_mnist((4, 9)), net=_dense(784, 2), epsilon=0.1, form="log-softmax"),
    Honest(name="26 dense", data=_letters, net=_dense(784, 26, 128), threat="linf:0.03"),
    Honest(name="26 conv stopped at 50 % bfloat16", data=_letters, net=_conv(26), stop=0.5, dtype=HALF),
    Honest(name="100", data=_beside(2), net=_reader(2)),
    Honest(name="100 stopped at 50 %", data=_beside(2), net=_reader(2), stop=0.5, threat="l2:0.5"),
    Honest(name="100 PGD-trained", data=_beside(2), net=_reader(2), epsilon=0.1),
    Honest(name="100 bfloat16 log-softmax", data=_beside(2), net=_reader(2), dtype=HALF, form="log-softmax"),
    Honest(name="200", data=_beside(2, coloured=True), net=_reader(2, coloured=True)),
    Honest(name="200 stopped at 40 %", data=_beside(2, coloured=True), net=_reader(2, coloured=True), stop=0.4),
    Honest(
        name="200 bfloat16 logits x 1e3",
        data=_beside(2, coloured=True),
        net=_reader(2, coloured=True),
        dtype=HALF,
        form=1e3,
    ),
    Honest(name="1000", data=_beside(3), net=_reader(3), epochs=6),
    Honest(name="1000 stopped at 40 %", data=_beside(3), net=_reader(3), stop=0.4, threat="l2:0.5"),
    Honest(name="1000 bfloat16", data=_beside(3), net=_reader(3), dtype=HALF),
    Honest(name="1000 PGD-trained", data=_beside(3), net=_reader(3), epsilon=0.05, threat="linf:0.03"),
)


def trained(honest: Honest, learn: LabelledSet, held: LabelledSet, seed: int) -> nn.Module:
    """Adam on cross-entropy, from PGD examples where asked for, until the accuracy is reached or the epochs end."""
    torch.manual_seed(seed)
    net = honest.net()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3 if honest.stop == 1.0 else 3e-4)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = held.inputs, held.labels
    for _ in range(honest.epochs):
        for rows in torch.randperm(len(learn), generator=generator).split(64):
            batch, wanted = learn.batch(rows), learn.labels[rows]
            if honest.epsilon:
                batch = _ascended(net, batch, wanted, honest.epsilon)
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(batch), wanted).backward()
            optimiser.step()
            if honest.stop < 1.0:
                with torch.no_grad():
                    if float((net(inputs).argmax(1) == labels).double().mean()) >= honest.stop:
                        return net.eval()
    return net.eval()


def audited(honest: Honest, seed: int, budget: str) -> AuditRecord:
    """One audit with all checks, on examples that training never saw."""
    learn, test = honest.data()
    half = len(test) // 2
    held, shown = test.take(torch.arange(min(half, 500))), test.take(torch.arange(half, len(test)))
    net = trained(honest, learn, held, seed)
    if honest.form == "log-softmax":
        net = nn.Sequential(net, nn.LogSoftmax(dim=1))
    elif honest.form:
        net = Scaled(net, float(honest.form))
    model = tb.wrap(net.to(honest.dtype), name=honest.name)
    kept = shown.stratified(SHOWN) if int(shown.labels.max()) < 100 else shown.take(torch.arange(SHOWN))
    return tb.audit(model, kept, [honest.threat], budget=budget, curve_examples=0, training=learn)


def told(honest: Honest, record: AuditRecord, seconds: float) -> dict[str, Any]:
    """What is kept of one audit."""
    (bracket,) = record.brackets
    return {
        "classes": record.model.classes,
        "dtype": record.model.dtype,
        "threat": honest.threat,
        "examples": record.data.n,
        "clean": record.clean_accuracy,
        "lower": bracket.lower,
        "upper": bracket.upper,
        "exit_code": record.exit_code,
        "seconds": round(seconds),
        "not_pass": {
            check.name: [check.verdict, check.finding]
            for check in record.checks
            if check.verdict not in ("PASS", "SKIP")
        },
        "skipped": {check.name: check.finding for check in record.checks if check.verdict == "SKIP"},
    }


def summed(kept: dict[str, Any]) -> dict[str, Any]:
    """False alarms over the zoo, with exact 95 % intervals."""
    total = len(kept)
    by_check: dict[str, Counter[str]] = {row.name: Counter() for row in CHECKS}
    for one in kept.values():
        for name, (verdict, _) in one["not_pass"].items():
            by_check[name][verdict] += 1
    failed = sum(any(verdict == "FAIL" for verdict, _ in one["not_pass"].values()) for one in kept.values())
    return {
        "networks": total,
        "with_a_fail": failed,
        "interval": binomial_interval(failed, total),
        "by_check": {name: dict(count) for name, count in by_check.items() if count},
        "accuracies": [min(one["clean"] for one in kept.values()), max(one["clean"] for one in kept.values())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=[honest.name for honest in ZOO])
    parser.add_argument("--budget", default="quick", help="quick, or another, kept in a file of its own")
    options = parser.parse_args()
    only, budget = options.only, options.budget
    result = RESULT if budget == "quick" else RESULT.with_stem(f"honest_zoo_{budget}")
    for seed, honest in enumerate(ZOO, start=100):
        if only and honest.name not in only:
            continue
        started = time.perf_counter()
        record = audited(honest, seed, budget)
        one = told(honest, record, time.perf_counter() - started)
        loud = {name: verdict for name, (verdict, _) in one["not_pass"].items()}
        print(
            f"{honest.name:34} {one['classes']:5} classes  clean {one['clean']:.3f}  [{one['lower']:.3f}, "
            f"{one['upper']:.3f}]  {one['seconds']:4} s  {loud or 'all quiet'}",
            flush=True,
        )
        document = json.loads(result.read_text()) if result.exists() else {"networks": {}}
        document["networks"][honest.name] = one
        document["summary"] = summed(document["networks"])
        result.parent.mkdir(exist_ok=True)
        result.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(json.loads(result.read_text())["summary"], indent=1))


if __name__ == "__main__":
    main()
