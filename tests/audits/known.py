"""Models whose true robust accuracy is known, and data for them that no rounding can flip."""

from dataclasses import dataclass

import torch
from torch import Tensor

import trustbound as tb
from trustbound.model.exact import ExactModel, linear_classifier


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A linear classifier with examples, and which of them truly withstand a threat."""

    exact: ExactModel
    data: "tb.LabelledSet"
    threat: str
    robust: Tensor
    correct: Tensor

    @property
    def truth(self) -> float:
        """True robust accuracy on these examples."""
        return float(self.robust.double().mean())


def linear(
    *,
    norm: str = "linf",
    classes: int = 3,
    shape: tuple[int, ...] = (6,),
    n: int = 60,
    epsilon: float | None = None,
    low: float = 0.05,
    high: float = 0.95,
    wrong: int = 5,
    seed: int = 0,
    box: object = (0.0, 1.0),
) -> Known:
    """A random linear classifier; about half of the examples withstand epsilon, `wrong` of them are mislabelled.

    Examples whose radius lies within 2 % of epsilon are left out: there rounding would decide.
    """
    generator = torch.Generator().manual_seed(seed)
    features = torch.Size(shape).numel()
    weight = torch.randn(classes, features, generator=generator)
    box = tb.Box.of(box)
    low_limit, high_limit = (torch.as_tensor(one, dtype=torch.float32).expand(shape) for one in (box.low, box.high))
    unit = low + (high - low) * torch.rand(4 * n, *shape, generator=generator)
    inputs = low_limit + (high_limit - low_limit) * unit
    bias = -(weight @ inputs.flatten(1).mean(0))
    exact = linear_classifier(weight, bias, box=box)
    with torch.no_grad():
        labels = exact.model(inputs).argmax(1)
    radius = exact.exact_radius(inputs, labels, norm, inside_box=True)
    if epsilon is None:
        epsilon = float(f"{float(radius[radius.isfinite()].median()):.3g}")
    clear = ((radius - epsilon).abs() > 0.02 * epsilon).nonzero()[:n, 0]
    inputs, labels, radius = inputs[clear], labels[clear], radius[clear]
    if wrong:
        labels[:wrong] = (labels[:wrong] + 1) % classes
    correct = torch.arange(len(labels)) >= wrong
    return Known(
        exact=exact,
        data=tb.LabelledSet(inputs, labels, box=box),
        threat=f"{norm}:{epsilon}",
        robust=correct & (radius > epsilon),
        correct=correct,
    )


def verdicts(record: "tb.AuditRecord", threat: str | None = None) -> list[str]:
    """What the record says of each example, in the order of the audit."""
    return [row.verdict for row in record.examples if threat in (None, row.threat)]
