"""The tasks that there are: torch-free rows that the command line, the report and the contract tests read."""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One task.

    Parameters
        name        kebab-case.
        target      "module:Class" of the frozen dataclass.
        line        what it is, in one line.
        example     its text form.
        returns     what a model returns, and
        labels      what an example is labelled with, in words.
        right       what is said of an example that counts as right, as it follows "is".
        calibrated  whether outputs are logits of classes, which give a confidence to calibrate.
        smooth      whether margins are piecewise smooth functions of the outputs, as attacks for the smallest change
                    need them.
        no_proof    why nothing can be proven; empty where something can.
    """

    name: str
    target: str
    line: str
    example: str
    returns: str
    labels: str
    right: str
    calibrated: bool = False
    smooth: bool = True
    no_proof: str = ""


TASKS = Registry(
    "a task",
    TaskRow(
        name="classification",
        target="trustbound.tasks.classification:Classification",
        line="One of C classes: the one with the largest logit.",
        example="classification",
        returns="logits (B, C), C ≥ 2",
        labels="class numbers (B,) int64",
        right="classified correctly",
        calibrated=True,
    ),
    TaskRow(
        name="regression",
        target="trustbound.tasks.regression:Regression",
        line="Numbers: right where every one is within a tolerance of its target.",
        example="regression:tolerance=50",
        returns="numbers (B,) or (B, K)",
        labels="targets (B,) or (B, K), floating point",
        right="predicted within the tolerance",
    ),
    TaskRow(
        name="segmentation",
        target="trustbound.tasks.segmentation:Segmentation",
        line="A class for each pixel: right where at least a share of the labelled pixels is.",
        example="segmentation:min_accuracy=0.9",
        returns="logits (B, C, H, W), C ≥ 2",
        labels="class numbers (B, H, W) int64, and a number for pixels without a label",
        right="segmented well enough",
        smooth=False,
    ),
)
