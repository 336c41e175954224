"""A class for each pixel: an example is right where at least a given share of its labelled pixels is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.decision import answered
from trustbound.tasks.task import Requirement, Task, real

#: Numbers of an example's rows, at most.
_MOST = 1 << 26


@dataclass(frozen=True)
class Segmentation(Task):
    """An example withstands while its pixel accuracy stays at `min_accuracy` or above.

    Shapes      outputs (B, C, H, W), C ≥ 2; labels (B, H, W) int64, `ignore` where a pixel has no label.
    Margin      pixel accuracy − min_accuracy: in shares of the labelled pixels, positive or 0 is right. It is counted,
                so that it has no slope of its own.
    Scores      the margin, and 0. The value is the counted margin, bit for bit; the gradient is that of minus the
                masked cross-entropy: the mean over labelled pixels of the cross-entropy of those that are still right,
                so that an attack spends nothing on pixels that it has turned already.
    Answer      a map that holds a NaN or infinity anywhere is no answer.
    Reference   Croce, Singh and Hein, Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
                Models, 2023 (2306.12941): pixel accuracy as the measure, the masked cross-entropy.
    Deviations  they average the pixel accuracy over a data set; here each example has a verdict, by a threshold that
                is stated, so that it has a bracket. Averages are reported beside it.

    >>> task = Segmentation(min_accuracy=0.5)
    >>> outputs = torch.tensor([[[[2.0, 0.0]], [[1.0, 1.0]]]])  # two pixels: class 0, class 1
    >>> task.scores(outputs, torch.tensor([[[0, 0]]])), task.scores(outputs, torch.tensor([[[1, 0]]]))
    (tensor([[0., 0.]], dtype=torch.float64), tensor([[-0.5000,  0.0000]], dtype=torch.float64))
    """

    min_accuracy: float | None = None
    ignore: int = 255

    name: ClassVar[str] = "segmentation"
    smooth: ClassVar[bool] = False
    maps: ClassVar[bool] = True
    decided: ClassVar[bool] = True
    returns: ClassVar[str] = "logits (B, C, H, W), C ≥ 2"
    called: ClassVar[str] = "logits"

    def __post_init__(self) -> None:
        """Refuse shares that every map or none would reach."""
        given = self.min_accuracy
        share = real(given)
        if given is not None and (share is None or not 0.0 < share <= 1.0):
            raise InputError(
                "`min_accuracy` must be a share of the labelled pixels above 0 and at most 1, the least that must be "
                f"right; got {given!r}"
            )
        object.__setattr__(self, "min_accuracy", share)
        if isinstance(self.ignore, bool) or not isinstance(self.ignore, int) or not -(2**63) <= self.ignore < 2**63:
            raise InputError(
                f"`ignore` must be a whole number of 64 bits, the label of pixels without one; got {self.ignore!r}"
            )

    def judging(self) -> Task:
        """Refused without a share."""
        if self.min_accuracy is None:
            raise InputError(
                "a segmentation must say which share of the pixels must be right; got none. Give it: "
                "task='segmentation:min_accuracy=0.9'."
            )
        return self

    def fitted(self, outputs: Any) -> Tensor | None:
        """Floating logits of two classes at least for each pixel of a map."""
        fits = isinstance(outputs, Tensor) and outputs.dim() == 4 and outputs.is_floating_point()
        return outputs if fits and outputs.shape[1] >= 2 and outputs[:, 0].numel() >= len(outputs) else None

    def advice(self, outputs: Any) -> str:
        """Where the logits may be."""
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else ()
        hint = ", here lambda one: torch.cat((-one, one), 1)" if len(shape) == 4 and shape[1] == 1 else ""
        return (
            f"Pass `output=` to wrap or load_model: a position, a key, an attribute name (torchvision's is 'out') or a "
            f"callable{hint}."
        )

    def checked_labels(self, labels: Tensor) -> Tensor:
        """Whole numbers (B, H, W): classes from 0, or `ignore`; one labelled pixel at least in each example."""
        if labels.dim() != 3:
            raise InputError(
                f"`labels` of a segmentation must be maps (B, H, W) of class numbers; got shape {tuple(labels.shape)}. "
                "For one-hot maps pass labels.argmax(1)."
            )
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise InputError(
                f"`labels` of a segmentation must be whole class numbers; got {labels.dtype}. Convert them with "
                "labels.long()."
            )
        kept = labels.to(torch.int64)
        known = kept != self.ignore
        if bool(((kept < 0) & known).any()):
            raise InputError(
                f"`labels` of a segmentation must be classes ≥ 0, or {self.ignore} for pixels without a label; got "
                f"{int(kept[known].min())}. Say another ignore=, e.g. task='segmentation:ignore=-1'."
            )
        empty = ~known.flatten(1).any(1)
        if bool(empty.any()):
            raise InputError(
                f"every example of a segmentation needs a labelled pixel; {int(empty.sum())} have none, the first at "
                f"row {int(empty.nonzero()[0])}. Drop them."
            )
        return kept

    def check_fit(self, labels: Tensor, shape: tuple[int, ...]) -> None:
        """Refuse maps of another size, and classes that the model does not have."""
        if tuple(labels.shape[1:]) != shape[1:]:
            raise InputError(
                f"a segmentation needs a label for each pixel of the model's maps {shape[1:]}; got maps of "
                f"{tuple(labels.shape[1:])}. Resize the labels (nearest neighbour), or the outputs inside the model."
            )
        known = labels != self.ignore
        wrong = known & ((labels < 0) | (labels >= shape[0]))
        if bool(wrong.any()):
            raise InputError(
                f"`labels` must be classes 0..{shape[0] - 1}, as many as the model's outputs, or {self.ignore} for "
                f"pixels without a label; got {int(labels[wrong].min())}..{int(labels[wrong].max())}"
            )

    def scores(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The counted margin with the slope of the masked cross-entropy, and 0: (B, 2) float64."""
        assert self.min_accuracy is not None
        margin = self.accuracy(outputs, labels) - self.min_accuracy
        if outputs.requires_grad:
            known = labels != self.ignore
            right = (outputs.detach().argmax(1) == labels) & known
            wide = outputs.float() if outputs.dtype in (torch.float16, torch.bfloat16) else outputs
            each = functional.cross_entropy(wide, labels.masked_fill(~known, 0), reduction="none")
            climbed = (each * right).flatten(1).sum(1).double() / known.flatten(1).sum(1)
            margin = margin - (climbed - climbed.detach())
        margin = margin.masked_fill(~_whole(outputs), torch.nan)
        return torch.stack((margin, torch.zeros_like(margin)), dim=1)

    def accuracy(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The share of labelled pixels that are right, (B,) float64."""
        known = labels != self.ignore
        right = (outputs.detach().double().argmax(1) == labels) & known
        return right.flatten(1).sum(1).double() / known.flatten(1).sum(1)

    def rounding_error(self, outputs: Tensor, labels: Tensor, precision: torch.dtype | None = None) -> Tensor:
        """The share of labelled pixels whose two largest logits lie within rounding error: each may turn."""
        kinds = [torch.finfo(kind) for kind in (outputs.dtype, precision or outputs.dtype)]
        wide = outputs.detach().double()
        best = wide.topk(2, dim=1).values
        size = wide.abs().amax(1).nan_to_num(posinf=0.0).clamp_min(max(kind.tiny for kind in kinds))
        near = (best[:, 0] - best[:, 1]) <= 4.0 * max(kind.eps for kind in kinds) * size
        known = labels != self.ignore
        return (near & known).flatten(1).sum(1).double() / known.flatten(1).sum(1)

    def requirement(self, labels: Tensor, width: int, targets: Tensor | None = None) -> Requirement:
        """Rows e_y − e_c of each pixel, all above 0 at as many labelled pixels as must be right.

        Outputs (B, C, H, W) lie in one row, K = C · H · W.

        >>> found = Segmentation(min_accuracy=0.5).requirement(torch.tensor([[[0, 1, 255]]]), 6)
        >>> found.rows[0, :2].tolist(), found.counted.tolist(), found.enough.tolist()
        ([[1.0, 0.0, 0.0, -1.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0, 1.0, 0.0]], [[True, True, False]], [1])
        """
        assert self.min_accuracy is not None
        flat = labels.flatten(1)
        count, pixels = flat.shape
        classes = width // pixels
        if (numbers := pixels * (classes - 1) * width) > _MOST:
            raise UnsupportedError(
                f"no proof: maps of {pixels:,} pixels and {classes} classes would take {numbers:,} numbers an example, "
                f"more than {_MOST:,}. Certify a network of smaller maps."
            )
        counted = flat != self.ignore
        own = flat.masked_fill(~counted, 0)
        other = torch.arange(classes - 1, device=labels.device) + (
            torch.arange(classes - 1, device=labels.device) >= own.unsqueeze(2)
        )
        place = torch.arange(pixels, device=labels.device)
        rows = torch.zeros(count, pixels, classes - 1, width, dtype=torch.float64, device=labels.device)
        at = (own * pixels + place).unsqueeze(2).unsqueeze(3).expand(-1, -1, classes - 1, 1)
        rows.scatter_(3, at, 1.0)
        rows.scatter_(3, (other * pixels + place.unsqueeze(1)).unsqueeze(3), -1.0)
        known = counted.sum(1)
        # The fewest right pixels of which the share, as `scores` counts it, is not below `min_accuracy`.
        shares = torch.arange(pixels + 1, device=labels.device) / known.unsqueeze(1).double()
        enough = (shares - self.min_accuracy < 0).sum(1)
        return Requirement(rows.flatten(1, 2), counted=counted, enough=enough)

    def decisions(self, outputs: Tensor) -> Tensor:
        """One-hot at each pixel; NaN where a map is no answer."""
        chosen = functional.one_hot(outputs.argmax(1), outputs.shape[1]).movedim(-1, 1).to(outputs.dtype)
        return chosen.masked_fill(~_whole(outputs).reshape(-1, 1, 1, 1), torch.nan)

    def payload(self, outputs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
        """The pixel accuracy of each example."""
        whole = _whole(outputs).tolist()
        return [
            {"accuracy": share if known else None}
            for share, known in zip(self.accuracy(outputs, labels).tolist(), whole, strict=True)
        ]

    def summary(self, outputs: Tensor, labels: Tensor) -> Mapping[str, float]:
        """Pixel accuracy, and IoU as the mean over the classes that occur, counted over all examples together."""
        known = labels != self.ignore
        said, wanted = outputs.detach().double().argmax(1)[known], labels[known]
        classes = outputs.shape[1]
        counts = torch.bincount(wanted * classes + said, minlength=classes * classes).reshape(classes, classes)
        both = counts.diagonal().double()
        either = counts.sum(0) + counts.sum(1) - counts.diagonal()
        occurs = either > 0
        return {
            "pixel accuracy": float((said == wanted).double().mean()),
            "mean IoU": float((both[occurs] / either[occurs]).mean()),
        }

    def pictures(self, outputs: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """The maps of the labels and of what the network says, as class numbers."""
        return {"label": labels, "prediction": outputs.detach().argmax(1)}


def _whole(outputs: Tensor) -> Tensor:
    """Which maps are an answer at every pixel, (B,) bool."""
    return answered(outputs.movedim(1, -1).flatten(0, 2)).reshape(len(outputs), -1).all(1)
