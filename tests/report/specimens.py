"""Records to lay out: a plausible audit, its poorer relatives, and hostile ones."""

import dataclasses

import numpy as np

from trustbound.record.audit import (
    AuditRecord,
    Bracket,
    Check,
    Curve,
    DataFacts,
    ExampleRow,
    Exhibit,
    ModelFacts,
    StageFacts,
)
from trustbound.record.binomial import binomial_interval
from trustbound.record.cost import Cost
from trustbound.record.scores import (
    CalibrationScores,
    ConformalScore,
    Reliability,
    ReliabilityBin,
    RiskCoverage,
    TemperatureFit,
    UncertaintyReport,
)

#: What stands open, then what is folded in the appendix.
OPEN = ("verdict", "curve", "gallery", "calibration", "checks")
FOLDED = (
    "claims",
    "brackets",
    "threats",
    "errors",
    "waterfall",
    "curve-numbers",
    "gallery-numbers",
    "reliability",
    "risk-coverage",
    "uncertainty",
    "all-checks",
    "cost",
    "reproduce",
)
SECTIONS = OPEN + FOLDED


def bracket(threat="linf:0.1", *, certified=123, unknown=67, broken=100, misclassified=10, **more):
    n = certified + unknown + broken + misclassified
    return Bracket(
        threat=threat,
        lower=certified / n,
        upper=(certified + unknown) / n,
        lower_interval=binomial_interval(certified, n),
        upper_interval=binomial_interval(certified + unknown, n),
        n=n,
        certified=certified,
        broken=broken,
        misclassified=misclassified,
        unknown=unknown,
        **more,
    )


def steps(threat, found, quarter=4):
    """Steps whose settled counts add up to the bracket."""
    correct = found.n - found.misclassified
    first = found.broken // quarter * 3
    return (
        StageFacts(
            threat=threat,
            name="untargeted",
            kind="attack",
            method="smooth-pgd",
            examined=correct,
            settled=first,
            cost=Cost(10 * correct, 10 * correct, 0, 1.2),
        ),
        StageFacts(
            threat=threat,
            name="interval",
            kind="proof",
            method="interval",
            examined=correct - first,
            settled=found.certified // 3,
            cost=Cost(2 * correct, 0, 0, 0.05),
        ),
        StageFacts(
            threat=threat,
            name="closest targets",
            kind="attack",
            method="smooth-pgd",
            examined=correct - first - found.certified // 3,
            settled=found.broken - first,
            cost=Cost(3000, 3000, 0, 2.8),
            note="targets 1 and 2",
        ),
        StageFacts(
            threat=threat,
            name="crown",
            kind="proof",
            method="crown",
            examined=correct - found.broken - found.certified // 3,
            settled=found.certified - found.certified // 3,
            cost=Cost(40000, 0, 0, 9.1),
        ),
        StageFacts(
            threat=threat,
            name="random search",
            kind="control",
            method="square",
            examined=50,
            settled=0,
            control=41,
            cost=Cost(25000, 0, 25000, 6.0),
        ),
    )


def curve(norm="linf", largest=0.2, n=100, points=11):
    epsilons = tuple(float(e) for e in np.linspace(0, largest, points))
    upper = [round(n * 0.967 * float(np.exp(-((e / largest) ** 2) * 1.9))) for e in epsilons]
    lower = [round(n * 0.967 * max(0.0, 1 - 1.5 * e / largest)) for e in epsilons]
    return Curve(
        norm=norm,
        n=n,
        epsilons=epsilons,
        upper=tuple(k / n for k in upper),
        lower=tuple(k / n for k in lower),
        upper_interval=tuple(binomial_interval(k, n) for k in upper),
        lower_interval=tuple(binomial_interval(k, n) for k in lower),
        cost=Cost(90000, 60000, 0, 14.0),
        note="smallest distances by ddn; radii by bisection of crown.",
    )


def calibration_scores(accuracy, n=300, bins=15, seed=0):
    random = np.random.default_rng(seed)
    right = round(accuracy * n)
    confidence = np.concatenate([random.beta(9, 1.2, right), random.beta(5, 2.5, n - right)])
    correct = np.arange(n) < right
    rows = []
    for i in range(bins):
        inside = (confidence >= i / bins) & (confidence < (i + 1) / bins)
        k, c = int(inside.sum()), int(correct[inside].sum())
        rows.append(
            ReliabilityBin(
                low=i / bins,
                high=(i + 1) / bins,
                count=k,
                confidence=float(confidence[inside].mean()) if k else None,
                accuracy=c / k if k else None,
                interval=binomial_interval(c, k),
            )
        )
    wrong = ~correct[np.argsort(-confidence)]
    kept = np.arange(1, 101) * n // 100 if n >= 100 else np.arange(1, n + 1)
    risk = np.cumsum(wrong)[kept - 1] / kept
    return CalibrationScores(
        n=n,
        accuracy=right / n,
        nll=0.1371,
        brier=0.0613,
        ece=0.0234,
        ece_debiased=0.0117,
        ece_interval=(0.004, 0.031),
        mean_confidence=float(confidence.mean()),
        mean_confidence_on_errors=float(confidence[right:].mean()) if right < n else None,
        auroc=0.9312 if 0 < right < n else None,
        aurc=0.0071,
        aurc_excess=0.0052,
        reliability=Reliability(bins=tuple(rows)),
        risk_coverage=RiskCoverage(coverage=tuple(float(k) / n for k in kept), risk=tuple(float(r) for r in risk)),
    )


def assessment(scale=True, attacked=True):
    return UncertaintyReport(
        n_calibration=150,
        n_evaluation=150,
        clean=calibration_scores(0.967),
        attacked=calibration_scores(0.633, seed=1) if attacked else None,
        temperature=TemperatureFit(
            temperature=1.383,
            nll_before=0.1371,
            nll_after=0.1288,
            ece_before=0.0234,
            ece_after=0.0177,
            scale=scale,
            reason="The likelihood gain on the calibration examples is larger than chance explains."
            if scale
            else "The gain on the calibration examples is within chance.",
        ),
        scaled_clean=calibration_scores(0.96, n=150, seed=2) if scale else None,
        scaled_attacked=calibration_scores(0.62, n=150, seed=3) if scale and attacked else None,
        conformal=tuple(
            ConformalScore(
                method=method,
                level=0.9,
                n_calibration=150,
                n=150,
                quantile=quantile,
                coverage_clean=137 / 150,
                coverage_interval=binomial_interval(137, 150),
                mean_set_size=1.04,
                coverage_attacked=95 / 150 if attacked else None,
                coverage_interval_attacked=binomial_interval(95, 150) if attacked else None,
                mean_set_size_attacked=1.21 if attacked else None,
            )
            for method, quantile in (("threshold", 0.71), ("aps", float("inf")))
        ),
    )


CHECKS = (
    Check(
        name="determinism",
        verdict="PASS",
        severity="error",
        value=0.0,
        finding="Largest difference of the logits between two passes: 0.",
        unit="logits",
    ),
    Check(
        name="black-box-never-beats-white-box",
        verdict="WARN",
        severity="error",
        value=0.333,
        finding="Random search broke 1 image that no gradient attack broke: 214.",
        advice="Run with --budget thorough and compare.",
        unit="points",
        threat="linf:0.1",
    ),
    Check(
        name="unbounded-attack",
        verdict="PASS",
        severity="error",
        value=0.0,
        finding="Without a limit 0 of 50 images withstand.",
        unit="%",
        threat="linf:0.1",
    ),
    Check(
        name="too-few-examples",
        verdict="WARN",
        severity="note",
        value=300.0,
        finding="300 examples give intervals up to 11.4 points wide.",
        advice="Audit 1,500 examples for 5 points.",
        unit="examples",
    ),
    Check(
        name="eight-bit-rounding",
        verdict="SKIP",
        severity="warning",
        value=None,
        finding="The inputs do not lie on the 8-bit lattice.",
    ),
)


def exhibits(threat, shape, count=4, classes=10, seed=0):
    """Exhibits and their arrays."""
    random = np.random.default_rng(seed)
    found, arrays = [], {}
    for i in range(count):
        key = f"{threat.replace(':', '-').replace('/', '_')}-{i}"
        grid = np.indices(shape).sum(0) / (sum(shape) - len(shape) or 1)
        clean = (0.5 + 0.4 * np.sin(6 * grid + i) + random.normal(0, 0.05, shape)).clip(0, 1)
        adversarial = (clean + 0.1 * np.sign(random.normal(size=shape))).clip(0, 1)
        arrays[f"clean/{key}"] = clean.astype(np.float32)
        arrays[f"adversarial/{key}"] = adversarial.astype(np.float32)
        found.append(
            Exhibit(
                threat=threat,
                key=key,
                index=17 * i + 3,
                label=i % classes,
                clean_prediction=i % classes,
                clean_confidence=0.99971 - 0.07 * i,
                adversarial_prediction=(i + 5) % classes,
                adversarial_confidence=0.551 + 0.03 * i,
                size=0.1,
                broken_by="smooth-pgd",
            )
        )
    return tuple(found), arrays


def record(threats=("linf:0.1",), *, shape=(1, 8, 8), classes=10, **changes):
    """A plausible audit of 300 examples, and the arrays of its gallery."""
    brackets = tuple(
        bracket(
            threat,
            certified=123 - 40 * i,
            unknown=67 + 10 * i,
            broken=100 + 30 * i,
            change="any change of each input value by up to 0.1" if threat.startswith("linf") else "",
            ties=2 * i,
        )
        for i, threat in enumerate(threats)
    )
    shown, arrays = [], {}
    for i, threat in enumerate(threats):
        some, held = exhibits(threat, shape, classes=classes, seed=i)
        shown += some
        arrays |= held
    examples = tuple(
        ExampleRow(
            threat=b.threat,
            index=3 * row,
            label=row % classes,
            prediction=row % classes,
            confidence=0.9,
            verdict="certified"
            if row < b.certified
            else "unknown"
            if row < b.certified + b.unknown
            else "broken"
            if row < b.n - b.misclassified
            else "misclassified",
        )
        for b in brackets
        for row in range(b.n)
    )
    basis = AuditRecord(
        command="trustbound audit cnn-digits:weights.safetensors --data digits --threat linf:0.1 "
        "--budget standard --limit 300 --seed 0 --run runs/digits",
        created="2025-06-03T10:21:07+00:00",
        versions={"trustbound": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "numpy": "2.2.1"},
        seed=0,
        budget="standard",
        model=ModelFacts(
            name="cnn-digits",
            sha256="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            parameters=21_418,
            classes=classes,
            input_shape=shape,
            box=(0.0, 1.0),
            device="cpu",
            dtype="float32",
            notes=("The last layer returns logits.",),
        ),
        data=DataFacts(
            name="digits (test)",
            sha256="60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
            n=300,
            class_names=tuple(f"digit {i}" for i in range(classes)),
            indices=tuple(range(0, 900, 3)),
        ),
        clean_accuracy=290 / 300,
        clean_interval=binomial_interval(290, 300),
        brackets=brackets,
        steps=tuple(step for b in brackets for step in steps(b.threat, b)),
        curves=tuple(
            curve(norm, largest)
            for norm, largest in (("linf", 0.2), ("l2", 1.5))
            if any(threat.startswith(norm) for threat in threats)
        ),
        doubts={threat: assessment() for threat in threats},
        checks=CHECKS,
        gallery=tuple(shown),
        examples=examples,
        cost=Cost(418_000, 203_000, 60_000, 83.4),
        backward_cost=2.71,
        exit_code=0,
        events=("Batch halved to 128: out of memory.",),
    )
    return dataclasses.replace(basis, **changes), arrays


def light(**changes):
    """A plausible audit without the figures that take long to draw."""
    return record(**{"curves": (), "steps": (), "doubts": {}, **changes})


def bare(**changes):
    """An audit of which almost everything is missing, on one example."""
    one = bracket(certified=0, unknown=1, broken=0, misclassified=0, no_proof="no proof: act (GELU)")
    found, _ = record(
        brackets=(one,),
        steps=(),
        curves=(),
        doubts={},
        checks=(),
        gallery=(),
        examples=(),
        events=(),
        clean_accuracy=1.0,
        clean_interval=binomial_interval(1, 1),
    )
    data = dataclasses.replace(found.data, n=1, indices=(0,), class_names=())
    return dataclasses.replace(found, data=data, **changes)


EVIL = '<script>alert("x")</script>&amp;\'"\x00\x1b[31m\ud800 $\\frac{1}{2}$ [bold]{{ 7*7 }} http://example.org 数字'


def hostile():
    """Every text is an attack, three threats, twelve classes, forty checks."""
    found, arrays = record(("linf:8/255", "l2:0.5;goal=target:3", "patch:5x5" + EVIL), shape=(3, 16, 16), classes=12)
    return (
        dataclasses.replace(
            found,
            command=EVIL,
            versions={EVIL: EVIL},
            budget=EVIL,
            verdict=EVIL,
            events=(EVIL,),
            model=dataclasses.replace(found.model, name=EVIL * 3, notes=(EVIL,), sha256=EVIL),
            data=dataclasses.replace(found.data, name=EVIL, class_names=(EVIL,) * 12),
            brackets=tuple(
                dataclasses.replace(b, goal=EVIL, access=EVIL, change=EVIL, no_proof=EVIL) for b in found.brackets
            ),
            steps=tuple(
                dataclasses.replace(s, name=EVIL, method=EVIL, note=EVIL, kind=EVIL if i == 3 else s.kind)
                for i, s in enumerate(found.steps)
            ),
            curves=tuple(dataclasses.replace(c, note=EVIL) for c in found.curves),
            checks=tuple(
                Check(
                    name=f"{EVIL}{i}",
                    verdict=("FAIL", "WARN", "PASS", "SKIP")[i % 4],
                    severity=("error", "warning", "note")[i % 3],
                    value=None if i % 5 else float(i),
                    finding=EVIL,
                    advice=EVIL,
                    unit=EVIL,
                    threat=EVIL,
                )
                for i in range(40)
            ),
            gallery=tuple(dataclasses.replace(e, broken_by=EVIL) for e in found.gallery),
            exit_code=3,
        ),
        arrays,
    )
