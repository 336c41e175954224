"""Every check by name: what it asks, how bad a failure is, and where its thresholds lie and why.

Torch-free: the command line, the report and the documents read it. The thresholds were fixed on one zoo of
planted failures and honest networks and are reported on a second (`benchmarks/checks_zoo.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from trustbound.registry import Registry


@dataclass(frozen=True, kw_only=True)
class CheckRow:
    """One check. Larger values are worse in every check.

    Parameters
        name        kebab-case.
        target      "module:Class" of the frozen dataclass.
        line        what it asks, in one line.
        when        "before" the search (a small probe of the model) or "after" it (from its evidence).
        scope       "model" (the same under every threat: run it once) or "threat".
        severity    what a failure means: "error" (do not trust the numbers), "warning" or "note".
        unit        of the value.
        warn, fail  the verdict is WARN above `warn` and FAIL above `fail`; None: that verdict is never given.
        reason      why the thresholds lie there.
        search      a failure makes the search doubtful, not what it found: it counts where a bound rests on it.
        asks        whether it asks the model; the others read what the audit itself holds.
    """

    name: str
    target: str
    line: str
    when: str
    scope: str
    severity: str
    unit: str
    warn: float | None
    fail: float | None
    reason: str
    search: bool = False
    asks: bool = True


_ROOM = "trustbound.audits.checks."

CHECKS = Registry(
    "a check",
    CheckRow(
        name="determinism",
        target=_ROOM + "repeatability:Determinism",
        line="Does a row get the same outputs again, in another order, in another batch and alone?",
        when="before",
        scope="model",
        severity="error",
        unit="largest change, in units of the spread of the outputs",
        warn=1e-3,
        fail=1e-2,
        reason="float32 kernels that differ by batch shape stay below 1e-4 of the spread; dropout, batch "
        "statistics and random resizing move the outputs by more than a tenth of it.",
    ),
    CheckRow(
        name="saturated-output",
        target=_ROOM + "saturation:SaturatedOutput",
        line="Are the outputs logits, and alive for the losses of the search: not probabilities, not one-hot rows?",
        when="before",
        scope="model",
        search=True,
        severity="error",
        unit="share of examples whose outputs are one-hot to the last bit and leave the search no gradient",
        warn=0.02,
        fail=0.2,
        reason="an honest logit margin must exceed 87 before float32 loses the gradient of probabilities, and a loss "
        "on logits never loses its own; above a fifth of dead examples the attack measures rounding, not robustness.",
    ),
    CheckRow(
        name="logit-scale-invariance",
        target=_ROOM + "saturation:LogitScaleInvariance",
        line="Would the search break more if the logits were multiplied by 1e-9 to 1e9?",
        when="after",
        scope="threat",
        search=True,
        severity="warning",
        unit="share of what the search left standing that its attacks break at the best other scale",
        warn=0.05,
        fail=0.5,
        reason="multiplying logits changes no decision; below 5 points the gain is within the spread between two runs "
        "of a search; above 50 its losses hardly work at the model's own scale.",
    ),
    CheckRow(
        name="gradient-rate",
        target=_ROOM + "gradient_rate:GradientRate",
        line="How often is the gradient zero, NaN or infinite, over examples and steps?",
        when="before",
        scope="threat",
        search=True,
        severity="error",
        unit="share of example-steps",
        warn=0.02,
        fail=0.2,
        reason="networks with living gradients show none; a step without a gradient is a step not taken. FAIL needs "
        "every loss of the search to be blind somewhere.",
    ),
    CheckRow(
        name="broken-graph",
        target=_ROOM + "broken_graph:BrokenGraph",
        line="Does the gradient reach the inputs, and if not, in which module does it die?",
        when="before",
        scope="model",
        search=True,
        severity="error",
        unit="share of examples whose gradient dies in one module",
        warn=0.05,
        fail=0.5,
        reason="honest modules pass some gradient for every example; a module that passes none for half of "
        "them is not differentiated but removed.",
    ),
    CheckRow(
        name="finite-differences",
        target=_ROOM + "finite_differences:FiniteDifferences",
        line="Is the gradient the slope of the function, and has the function a slope at all?",
        when="before",
        scope="model",
        search=True,
        severity="error",
        unit="share of examples where slope and gradient disagree, or the outputs jump",
        warn=0.05,
        fail=0.25,
        reason="in float64 a continuous network agrees with its gradient to 1e-6 at generic points; the share "
        "leaves room for kinks that fall between the probes.",
    ),
    CheckRow(
        name="monotone-budget",
        target=_ROOM + "monotone_budget:MonotoneBudget",
        line="Does an unlimited attack break everything, and does a larger budget never break less?",
        when="after",
        scope="threat",
        search=True,
        severity="error",
        unit="share that survives an attack limited by the box alone",
        warn=0.05,
        fail=0.2,
        reason="without a limit every image can become any other, so survivors are the attack's failures; one "
        "survivor alone is no FAIL.",
    ),
    CheckRow(
        name="black-box-beats-white-box",
        target=_ROOM + "transfer:BlackBoxBeatsWhiteBox",
        line="Did a search without gradients break examples that the gradient attacks left standing?",
        when="after",
        scope="threat",
        search=True,
        severity="error",
        unit="share of what the white box left standing in the control group that the black box broke",
        warn=0.0,
        fail=0.05,
        reason="an attacker who sees more must not do worse; a FAIL needs three such examples, and more than chance "
        "(exact, 5 %) gives where 5 % were missed.",
    ),
    CheckRow(
        name="search-exhausted",
        target=_ROOM + "exhausted:SearchExhausted",
        line="Was the search still finding when it ended?",
        when="after",
        scope="threat",
        search=True,
        severity="warning",
        unit="share that the last round broke of the examples that it tried",
        warn=0.02,
        fail=0.1,
        reason="a round is dry, and ends a search that may go on, below 2 %; above a tenth the bound is that of the "
        "plan, not of the network.",
        asks=False,
    ),
    CheckRow(
        name="best-against-last",
        target=_ROOM + "progress:BestAgainstLast",
        line="How many examples does the attack break on its way but no longer at its last step?",
        when="after",
        scope="threat",
        search=True,
        severity="note",
        unit="share broken on the path but not at the last point",
        warn=0.1,
        fail=None,
        reason="a converging attack stays where it succeeded; nothing is lost here, since the best point is "
        "kept, but a wide gap shows a step too long or a gradient that misleads.",
    ),
    CheckRow(
        name="incomplete-optimisation",
        target=_ROOM + "progress:IncompleteOptimisation",
        line="Was the loss still rising in the last tenth of the steps?",
        when="after",
        scope="threat",
        search=True,
        severity="warning",
        unit="share of the whole improvement made in the last tenth of the steps",
        warn=0.08,
        fail=None,
        reason="a search that climbs evenly to the end makes a tenth there, a finished one almost nothing.",
    ),
    CheckRow(
        name="silent-success",
        target=_ROOM + "progress:SilentSuccess",
        line="Did the search pass an adversarial point and fail to return it?",
        when="after",
        scope="threat",
        severity="error",
        unit="share of examples",
        warn=0.0,
        fail=0.0,
        reason="every evaluated point is kept by construction, so a single loss is a defect.",
    ),
    CheckRow(
        name="transfer-success",
        target=_ROOM + "transfer:TransferSuccess",
        line="Do adversarials made on a stand-in of the model break what the direct attacks left standing?",
        when="after",
        scope="threat",
        search=True,
        severity="error",
        unit="share of what the direct attacks left standing that falls through a stand-in",
        warn=0.03,
        fail=0.05,
        reason="a copy knows less than the model itself; one example may be luck; a FAIL needs three, and more than "
        "chance (exact, 5 %) gives where 5 % were missed.",
    ),
    CheckRow(
        name="set-and-box",
        target=_ROOM + "reported:SetAndBox",
        line="Is every reported adversarial inside the threat set and the box, measured again in float64?",
        when="after",
        scope="threat",
        severity="error",
        unit="adversarials outside",
        warn=0.0,
        fail=0.0,
        reason="a witness outside the set is no witness.",
        asks=False,
    ),
    CheckRow(
        name="eight-bit-rounding",
        target=_ROOM + "reported:EightBitRounding",
        line="How many adversarials are lost when they are saved as 8-bit pictures?",
        when="after",
        scope="threat",
        severity="note",
        unit="share of adversarials lost",
        warn=0.5,
        fail=None,
        reason="searches that stop at the first success end close to the boundary: up to a third is lost on honest "
        "networks; "
        "the bound on robust accuracy does not depend on it.",
    ),
    CheckRow(
        name="input-range",
        target=_ROOM + "inputs:InputRange",
        line="Are the inputs in the box and of its scale, not normalised and not 0 to 255?",
        when="before",
        scope="model",
        severity="error",
        unit="share of values outside the box",
        warn=0.0,
        fail=0.0,
        reason="epsilon is measured in input units: on another scale it is another threat.",
        asks=False,
    ),
    CheckRow(
        name="model-restored",
        target=_ROOM + "restored:ModelRestored",
        line="Is the model as it came: weights, buffers, gradients, modes, hooks, random state?",
        when="after",
        scope="model",
        severity="error",
        unit="aspects that changed",
        warn=0.0,
        fail=0.0,
        reason="numbers measured on a model that changed under way belong to no model.",
        asks=False,
    ),
    CheckRow(
        name="label-order",
        target=_ROOM + "inputs:LabelOrder",
        line="Do the labels count the classes in the model's order?",
        when="before",
        scope="model",
        severity="error",
        unit="accuracy gained by another order of classes, on examples that did not choose it",
        warn=0.0,
        fail=0.01,
        reason="on a trained network no other order is better on examples that did not choose it; a FAIL needs more "
        "than a point of accuracy and twice as many right answers as the given order on the classes concerned.",
    ),
    CheckRow(
        name="preprocessing",
        target=_ROOM + "preprocessing:Preprocessing",
        line="Would another usual preprocessing (mean and std, scale, BGR) make the model much more accurate?",
        when="before",
        scope="model",
        severity="error",
        unit="share of examples that another usual preprocessing gains",
        warn=0.1,
        fail=0.3,
        reason="a network that is asked as it was trained gains nothing beyond chance; where a tenth of the examples "
        "is gained, what is audited is probably another model than the one that was trained. A FAIL needs twice as "
        "many right answers where the two ways differ.",
    ),
    CheckRow(
        name="sample-size",
        target=_ROOM + "inputs:SampleSize",
        line="Are there enough examples for the precision that the shares are quoted with?",
        when="after",
        scope="threat",
        severity="warning",
        unit="half width of the exact 95 % interval, in units of the claimed precision",
        warn=1.0,
        fail=4.0,
        reason="above 1 the interval is wider than the claim; above 4 the claim has no basis.",
        asks=False,
    ),
    CheckRow(
        name="train-test-overlap",
        target=_ROOM + "inputs:TrainTestOverlap",
        line="Were test examples in the training set?",
        when="before",
        scope="model",
        severity="error",
        unit="share of test examples",
        warn=0.0,
        fail=0.02,
        reason="any overlap deserves a word; up to 2 % occurs in published sets and moves no conclusion.",
        asks=False,
    ),
    CheckRow(
        name="disjoint-verdicts",
        target=_ROOM + "reported:DisjointVerdicts",
        line="Is no example both proven and broken?",
        when="after",
        scope="threat",
        severity="error",
        unit="examples both proven and broken",
        warn=0.0,
        fail=0.0,
        reason="one of the two must be wrong, and both count in the bracket.",
        asks=False,
    ),
)
