"""Do the checks find planted failures, and how often do they cry wolf?

Three zoos (`benchmarks/zoos.py`): on A the thresholds of `audits/checks/registry.py` were fixed, B and C are only
reported. Printed: the confusion table of planted failures against the check that must see them, all other checks that
saw them too, and the false alarms on the honest networks with exact 95 % intervals.

    python -m benchmarks.checks_zoo [--zoo A …]           minutes each; kept zoo by zoo in results/checks_zoo.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import torch

from benchmarks.zoos import Subject, digits, third, unseen
from trustbound.attacks import build
from trustbound.audits.checks.context import After, Before, Evidence
from trustbound.audits.checks.examine import examine
from trustbound.audits.checks.probe import answers, objective_of, probe_run
from trustbound.audits.checks.registry import CHECKS
from trustbound.audits.checks.restored import fingerprint
from trustbound.model.wrapping import Adaptation, wrap
from trustbound.record.audit import Check
from trustbound.record.binomial import binomial_interval
from trustbound.threat import Threat

RESULT = Path(__file__).parent / "results" / "checks_zoo.json"
CONTROL = 64
ATTACKS = (build("pgd", steps=20), build("apgd", steps=40, loss="margin"), build("apgd-t", steps=30))
ZOOS = {"A": digits, "B": unseen, "C": third}


#: Planted failure → the check that must see it.
EXPECTED = {
    "softmax x 200": "saturated-output",
    "quantised input": "broken-graph",
    "straight-through quantised": "finite-differences",
    "gradient killer (zero)": "gradient-rate",
    "gradient killer (detached)": "broken-graph",
    "straight-through killer": "finite-differences",
    "k-winners-take-all": "finite-differences",
    "dropout on": "determinism",
    "dropout layer in train mode": "determinism",
    "batch norm in train mode": "determinism",
    "random resize": "determinism",
    "normalised inputs": "input-range",
    "normalised inputs, wide box": "input-range",
}


def look(subject: Subject) -> dict[str, Check]:
    """Every check on one subject, with evidence from a plain audit: PGD and APGD on all, square on a group."""
    box = (0.0, 1.0)
    if subject.planted == "normalised inputs, wide box":
        box = (float(subject.inputs.min()), float(subject.inputs.max()))
    model = wrap(subject.module, box=box, adaptation=Adaptation())  # what a defence declares is withheld
    known = {
        "model": model,
        "inputs": subject.inputs,
        "labels": subject.labels,
        "threat": Threat.parse(f"linf:{subject.epsilon}"),
        "key": 7,
        "training": subject.training,
        "attacks": ATTACKS,
    }
    taken = fingerprint(model.module)
    before = Before(**known)
    if subject.planted == "normalised inputs":  # no search accepts inputs outside the box
        return {check.name: check for check in examine(before, ["input-range"]).checks}
    first = examine(before)
    evidence = _evidence(before, taken)
    second = examine(After(**known, evidence=evidence))
    return {check.name: check for check in (*first.checks, *second.checks)}


def _evidence(context: Before, taken: dict[str, str]) -> Evidence:
    outputs, _ = answers(context, context.inputs)
    control = torch.zeros(len(context), dtype=torch.bool)
    control[torch.randperm(len(context), generator=context.generator())[:CONTROL]] = True
    broken = torch.zeros(len(context), dtype=torch.bool)
    adversarial = context.inputs.clone()
    searched = True
    for one in ATTACKS:
        try:
            struck = probe_run(context, one)
        except Exception as error:
            if "no gradient flows" not in str(error):
                raise
            searched = False
            continue
        fresh = struck.success & ~broken
        adversarial[fresh] = struck.found.adversarial[fresh]
        broken |= struck.success
    white = broken.clone()
    group = context.select(control.nonzero()[:, 0])
    struck = probe_run(group, "square", steps=300)
    black = torch.zeros_like(broken)
    black[control] = struck.success
    only = control & black & ~broken
    adversarial[only] = struck.found.adversarial[only[control]]
    wrong = objective_of(context, outputs).reached(outputs)
    return Evidence(
        clean_outputs=outputs,
        broken=(broken | black) & ~wrong,
        adversarial=adversarial,
        certified=torch.zeros_like(broken),
        control=control,
        white=white if searched else torch.zeros_like(white),
        black=black,
        fingerprint=taken,
    )


def report(zoo: str, honest: list[Subject], planted: list[Subject]) -> dict[str, object]:
    """Look at every subject, print the tables and return them."""
    print(f"\nZoo {zoo}: {len(honest)} honest networks, {len(planted)} with a planted failure")
    alarms: Counter[str] = Counter()
    fails: Counter[str] = Counter()
    per_honest: dict[str, dict[str, str]] = {}
    values: dict[str, dict[str, float | None]] = {}
    for subject in honest:
        seen = look(subject)
        loud = {name: check.verdict for name, check in seen.items() if check.verdict in ("WARN", "FAIL")}
        per_honest[subject.name] = loud
        values[subject.name] = {name: check.value for name, check in seen.items()}
        alarms.update(loud.keys())
        fails.update(name for name, verdict in loud.items() if verdict == "FAIL")
        print(f"  honest   {subject.name:34} {_written(loud) or 'all quiet'}", flush=True)
    caught: Counter[str] = Counter()
    total: Counter[str] = Counter()
    also: dict[str, Counter[str]] = {}
    rows = []
    for subject in planted:
        seen = look(subject)
        verdicts = {name: check.verdict for name, check in seen.items()}
        loud = {name: verdict for name, verdict in verdicts.items() if verdict in ("WARN", "FAIL")}
        right = EXPECTED[subject.planted]
        total[subject.planted] += 1
        caught[subject.planted] += right in loud
        also.setdefault(subject.planted, Counter()).update(loud.keys())
        rows.append({"network": subject.name, "planted": subject.planted, "verdicts": verdicts})
        mark = "caught" if right in loud else "MISSED"
        print(f"  {mark}   {subject.name:34} {subject.planted:28} {_written(loud)}", flush=True)
    print(f"\n  {'planted failure':30} {'must be seen by':20} {'seen':>8}   others that saw it")
    for name, count in total.items():
        others = ", ".join(f"{one} {n}" for one, n in also[name].most_common() if one != EXPECTED[name])
        print(f"  {name:30} {EXPECTED[name]:20} {caught[name]:>4}/{count:<3}   {others}")
    found, every = sum(caught.values()), sum(total.values())
    print(f"  detection {found}/{every}, exact 95 % interval {_share(found, every)}")
    print(f"\n  {'check':28} {'alarms':>8} {'FAIL':>5}   exact 95 % interval, {len(honest)} honest networks")
    for row in CHECKS:
        interval = _share(alarms[row.name], len(honest))
        print(f"  {row.name:28} {alarms[row.name]:>4}/{len(honest):<3} {fails[row.name]:>5}   {interval}")
    print("\n  largest value on an honest network, and the thresholds it stays under or not")
    for row in CHECKS:
        known = [one for each in values.values() if (one := each.get(row.name)) is not None]
        print(f"  {row.name:28} {max(known, default=float('nan')):>10.3g}   warn {row.warn:g}, fail {row.fail}")
    quiet = sum(not loud for loud in per_honest.values())
    unfailed = sum("FAIL" not in loud.values() for loud in per_honest.values())
    print(f"  networks without any alarm {quiet}/{len(honest)} {_share(quiet, len(honest))}")
    print(f"  networks without a FAIL    {unfailed}/{len(honest)} {_share(unfailed, len(honest))}")
    return {
        "honest": per_honest,
        "honest_values": values,
        "planted": rows,
        "detection": {
            name: {
                "check": EXPECTED[name],
                "seen": caught[name],
                "of": count,
                "interval": binomial_interval(caught[name], count),
                "others": dict(also[name]),
            }
            for name, count in total.items()
        },
        "detected": {"seen": found, "of": every, "interval": binomial_interval(found, every)},
        "false_alarms": {
            row.name: {
                "alarms": alarms[row.name],
                "fails": fails[row.name],
                "of": len(honest),
                "interval": binomial_interval(alarms[row.name], len(honest)),
            }
            for row in CHECKS
        },
    }


def _written(loud: dict[str, str]) -> str:
    return ", ".join(f"{name} {verdict}" for name, verdict in loud.items())


def _share(count: int, total: int) -> str:
    low, high = binomial_interval(count, total)
    return f"[{low:.0%}, {high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--zoo", choices=tuple(ZOOS), nargs="*", default=list(ZOOS))
    for zoo in parser.parse_args().zoo:
        started = time.perf_counter()
        told = report(zoo, *ZOOS[zoo]())
        seconds = time.perf_counter() - started
        print(f"\n{seconds:.0f} s", flush=True)
        kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        kept.setdefault("zoos", {})[zoo] = {"seconds": round(seconds), **told}
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
