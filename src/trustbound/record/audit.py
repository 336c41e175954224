"""What an audit found: one frozen tree of plain values, without torch, that the report and `--json` read."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trustbound.record.cost import Cost
from trustbound.record.migrations import RECORD_SCHEMA
from trustbound.record.scores import UncertaintyReport

if TYPE_CHECKING:
    from pandas import DataFrame

#: The step that settles examples which the goal does not concern.
UNCONCERNED = "not-concerned"

#: Per example and threat. Ties (a margin below rounding error) stay unknown: neither broken nor proven.
VERDICTS = ("misclassified", "broken", "certified", "unknown")


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What was under test."""

    name: str
    sha256: str
    parameters: int
    classes: int
    input_shape: tuple[int, ...]
    box: tuple[float, float]
    device: str
    dtype: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What it was tested on. `indices` are row numbers of the whole set, in the order of the audit."""

    name: str
    sha256: str
    n: int
    class_names: tuple[str, ...]
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """lower ≤ true robust accuracy ≤ upper, for one threat.

    Parameters
        lower, upper        shares of all `n` examples: certified, and unbroken.
        lower_interval, upper_interval      exact binomial 95 % intervals of the two shares.
        unknown             examples that are neither broken nor proven.
        ties                of these, examples whose margin under attack is below rounding error.
        rounded             of these, examples whose proof holds in exact arithmetic but not after what rounding in the
                            model's own precision may take: proofs lost to rounding.
        unanswered          of the broken, examples whose witness makes the model answer NaN or infinity.
        no_proof            why nothing could be proven, e.g. "no proof: layer4.0.act (GELU)"; empty otherwise.
        goal, access, change    the threat in words, for the report's threat table.

    natural + boundary = robust error: R_rob = R_nat + R_bdy, from the upper bound on robust accuracy.
    """

    threat: str
    lower: float
    upper: float
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]
    n: int
    certified: int
    broken: int
    misclassified: int
    unknown: int
    ties: int = 0
    rounded: int = 0
    unanswered: int = 0
    no_proof: str = ""
    goal: str = "misclassify"
    access: str = "gradients"
    change: str = ""
    columns: tuple[ColumnRadius, ...] = ()

    @property
    def natural_error(self) -> float:
        """Share misclassified without any attack."""
        return self.misclassified / self.n

    @property
    def boundary_error(self) -> float:
        """Share broken by the attack alone."""
        return self.broken / self.n

    @property
    def robust_error(self) -> float:
        """Share misclassified or broken: 1 − upper."""
        return (self.misclassified + self.broken) / self.n


@dataclass(frozen=True, kw_only=True)
class ColumnRadius:
    """How far one column of a table may go, in its own unit; None for as far as the box allows.

    kind    "immutable", "integer" or "" for real numbers.
    """

    name: str
    radius: float | None
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class StageFacts:
    """One stage of the search: which examples were tried, what came of it, at what cost.

    Parameters
        kind        "attack", "proof" or "control" (an attack on the control group, proven or not).
        examined    examples it ran on; `settled` of these were broken (or proven) by it first.
        control     examined examples that were taken along because they belong to the control group.
        rounded     examined examples whose proof was lost to rounding alone.
        note        why the step could not be made, empty where it was.
    """

    threat: str
    name: str
    kind: str
    method: str
    examined: int
    settled: int
    control: int = 0
    rounded: int = 0
    cost: Cost = field(default_factory=Cost)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class SharedFacts:
    """One perturbation for all inputs, fitted to some of the examples that were answered rightly, scored on all.

    Parameters
        fitted, fooled_fitted       examples it was fitted to, and how many of them it breaks.
        held_out, fooled_held_out   the others, which it never saw, and how many of them it breaks.
        size        of the perturbation itself, in the set's unit.
        cost        of fitting and scoring together.
        key         its array (*F) lies in `gallery.safetensors` as `shared/KEY`.
    """

    threat: str
    method: str
    size: float
    fitted: int
    fooled_fitted: int
    held_out: int
    fooled_held_out: int
    cost: Cost = field(default_factory=Cost)
    key: str = ""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Security curve: both bounds at every epsilon at once, on `n` examples.

    `upper[i]` is the share still unbroken at `epsilons[i]`, `lower[i]` the share certified there. Sizes are in the
    `unit` of a table's columns ("%", where 0.05 stands for 5 %, "std", "range", "columns"), "" for input units.
    """

    norm: str
    n: int
    epsilons: tuple[float, ...]
    upper: tuple[float, ...]
    lower: tuple[float, ...]
    upper_interval: tuple[tuple[float, float], ...]
    lower_interval: tuple[tuple[float, float], ...]
    cost: Cost = field(default_factory=Cost)
    note: str = ""
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check of the evaluation.

    Parameters
        verdict     "PASS", "WARN", "FAIL", or "SKIP" with the reason in `finding`.
        severity    what a failure means: "error" (do not trust the numbers), "warning" or "note".
        value       the number it went by, None where there is none; `unit` says of what.
        finding     one sentence with the numbers.
        advice      what to do next; empty when the verdict is PASS.
        threat      the threat concerned, empty for the model as a whole.
    """

    name: str
    verdict: str
    severity: str
    value: float | None
    finding: str
    advice: str = ""
    unit: str = ""
    threat: str = ""


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """One adversarial example for the gallery; its arrays lie in `gallery.safetensors` under `key`.

    The file holds `clean/KEY` and `adversarial/KEY`, float32 (*F), and the maps of a task that has some:
    `clean-prediction/KEY`, `clean-label/KEY` …, float32 (H, W) class numbers. Label, predictions and confidences are
    None where the task has no classes; `detail` then says what it knows, as in `ExampleRow`.
    """

    threat: str
    key: str
    index: int
    label: int | None
    clean_prediction: int | None
    clean_confidence: float | None
    adversarial_prediction: int | None
    adversarial_confidence: float | None
    size: float
    broken_by: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExampleRow:
    """One example under one threat.

    Parameters
        tie         its margin, clean or under attack, lies within rounding error.
        rounded     its proof was lost to rounding alone.
        adversarial_prediction, adversarial_confidence      None where it is not broken, or where the model gives no
                    answer (NaN or infinity) to its witness.
        label, prediction, confidence       None where the task has no classes.
        radius      the largest size at which it is proven, of the sizes that were asked about: the threat's own, and
                    those of the curve for its examples; None where nothing is proven.
        forwards, backwards, queries    evaluations of this example under this threat; None where an earlier version
                    kept no count.
        detail      what another task than classification keeps: of a regression target, prediction and error, of a
                    segmentation the pixel accuracy; the same under attack with the prefix `adversarial_`.
    """

    threat: str
    index: int
    label: int | None
    prediction: int | None
    confidence: float | None
    verdict: str
    settled_by: str = ""
    size: float | None = None
    adversarial_prediction: int | None = None
    adversarial_confidence: float | None = None
    margin: float | None = None
    certified_margin: float | None = None
    tie: bool = False
    rounded: bool = False
    radius: float | None = None
    forwards: int | None = None
    backwards: int | None = None
    queries: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One audit, whole.

    `exit_code` 0 done, and thresholds met where some were set · 1 a threshold missed, `misses` says which · 3 finished
    but not to be trusted.
    `backward_cost` is r, the measured price of a backward in forwards. `doubts` (the stored word) holds one report a
    threat: the clean part is the same in each; empty with too few examples, and for a task without a confidence.
    `task` is the text form of what the outputs mean; `clean_accuracy` is the share that it counts as right. `measures`
    holds the task's own measures of quality, such as MAE or mean IoU, by state: "clean", and each threat (on the
    witnesses, the clean inputs where there is none).
    """

    command: str
    created: str
    versions: dict[str, str]
    seed: int
    budget: str
    model: ModelFacts
    data: DataFacts
    clean_accuracy: float
    clean_interval: tuple[float, float]
    brackets: tuple[Bracket, ...]
    steps: tuple[StageFacts, ...]
    curves: tuple[Curve, ...]
    doubts: dict[str, UncertaintyReport]
    checks: tuple[Check, ...]
    gallery: tuple[Exhibit, ...]
    examples: tuple[ExampleRow, ...]
    cost: Cost
    backward_cost: float
    exit_code: int
    verdict: str = ""
    misses: tuple[str, ...] = ()
    events: tuple[str, ...] = ()
    shared: tuple[SharedFacts, ...] = ()
    task: str = "classification"
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    schema: int = RECORD_SCHEMA

    @property
    def uncertainty(self) -> UncertaintyReport | None:
        """Under the first threat."""
        return next(iter(self.doubts.values()), None)

    def standing(self, threat: str) -> dict[int, bool]:
        """Which examples withstood every attack under a threat, by row of the data."""
        return {row.index: row.verdict in ("certified", "unknown") for row in self.examples if row.threat == threat}

    def same_examples(self, other: AuditRecord) -> bool:
        """Whether both audits saw the same rows of the same data."""
        return self.data.sha256 == other.data.sha256 and self.data.indices == other.data.indices

    def __repr__(self) -> str:
        """At most five lines: what was audited, the bracket of each threat in counts, the checks."""
        threats = [
            f"  {one.threat}: {one.lower:.1%} to {one.upper:.1%} withstand it ({one.certified} certified, "
            f"{one.unknown} unknown, {one.broken} broken, {one.misclassified} misclassified)"
            for one in self.brackets
        ]
        if len(threats) > 3:
            threats[2:] = [f"  … and {len(threats) - 2} more threats"]
        tally = {
            verdict: sum(check.verdict == verdict for check in self.checks) for verdict in ("FAIL", "WARN", "PASS")
        }
        checks = ", ".join(f"{count} {verdict}" for verdict, count in tally.items())
        head = f"AuditRecord: {self.model.name} on {self.data.n} examples of {self.data.name}, budget {self.budget}, "
        return "\n".join(
            [
                f"{head}clean accuracy {self.clean_accuracy:.1%}",
                *threats,
                f"  checks: {checks}; exit code {self.exit_code}",
            ]
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: the bracket in words and as a picture."""
        return str(_of_above("trustbound.exports.notebook", "view")(self))

    def to_frame(self) -> DataFrame:
        """One row an example and threat as a pandas DataFrame (extra `frames`); `exports/table.py` says the columns."""
        frame: DataFrame = _of_above("trustbound.exports.table", "frame")(self)
        return frame


def _of_above(module: str, name: str) -> Any:
    """What is made of records in a room above, by name: found when it is asked for, as a registry finds its rows."""
    return getattr(importlib.import_module(module), name)
