"""Certificates on random networks, each attacked in the network's own precision: none may break.

    python -m benchmarks.certificate_fuzz --networks 5000 --processes 16 --out FILE
    python -m benchmarks.certificate_fuzz --seed 1234          shows one network and what is found on it

For each network examples are sought where certificates are about to fail: along segments across a decision boundary of
the model as it is run, and at the largest ε that a certifier proves. Every certificate is attacked at its own ε + τ
(`fuzz_attack`); reported margins are held against the exact network, the rounding that is seen against the slack.
Finished seeds are kept beside FILE and not run again.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import math
import multiprocessing
import random
import re
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.fuzz_attack import Claims, answers, attack
from benchmarks.fuzz_networks import FAMILIES, Case, make
from trustbound.certificates import certify
from trustbound.certificates.graph import read
from trustbound.certificates.graph.graph import Graph
from trustbound.certificates.registry import CERTIFIERS
from trustbound.errors import UnsupportedError
from trustbound.record.box import Box
from trustbound.threat.threat import Threat

DETERMINISTIC = [row for row in CERTIFIERS if row.deterministic and row.layers]
RESULTS = Path(__file__).parent / "results" / "certificate_fuzz.json"
STEPS = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0)

#: Parts into which a region may be split; of each tenth network limits are narrowed after ten of them, which is dear.
PARTS: dict[str, dict[str, Any]] = {"branch-and-bound": {"max_nodes": 40, "timeout": math.inf}}
NARROWED = {"branch-and-bound": {"max_nodes": 40, "timeout": math.inf, "quick": 10}}


class Trial:
    """One network under certificates and attacks; `record` is what is kept of it."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.chance = random.Random(f"trial {case.seed}")
        # What no audit runs is dear: a share of the networks has to do.
        self.asked = [row for row in DETERMINISTIC if row.audited or self.chance.random() < 0.2]
        self.noise = torch.Generator().manual_seed(case.seed)
        self.claims: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
        self.record: dict[str, Any] = {
            "seed": case.seed,
            "family": case.family,
            "dtypes": case.dtypes,
            "tried": 0,
            "certified": 0,
            "attacked": 0,
            "ratio": 0.0,
            "violations": [],
        }

    def run(self) -> dict[str, Any]:
        """Certify, attack, and return the record."""
        case, record = self.case, self.record
        try:
            # One example shows the shape: a reader that trusts what it saw on these has to look elsewhere too.
            graph = read(case.model, case.inputs[:1].clone())
            examples, labels = self._examples()
            for norm in self.chance.sample(("linf", "l2", "l1"), 2):
                self._certify(graph, norm, examples, labels)
            self._widen(graph, self.chance.choice(self.asked).name)
        except UnsupportedError as refusal:
            record["refused"] = reason(str(refusal))
            return record
        for norm, claims in self.claims.items():
            attack(case, _joined(norm, claims), self._report, self.noise)
        return record

    def _examples(self) -> tuple[Tensor, Tensor]:
        """Return points of the box near a decision boundary of the model as it is run, and their labels."""
        case, low, high = self.case, *self.case.box
        share = torch.rand(24, *case.inputs.shape[1:], generator=self.noise, dtype=torch.float64)
        limits = torch.tensor([low, high], dtype=torch.float64).to(case.inputs.dtype)
        points = (low + (high - low) * share).to(case.inputs.dtype).clamp(limits[0], limits[1])
        points = torch.cat([case.inputs, points])
        outputs = answers(case, points)
        self.classes = outputs.shape[1]
        labels = outputs.double().nan_to_num(-math.inf).argmax(1)
        pairs = [(a, b) for a in range(len(points)) for b in range(len(points)) if labels[a] != labels[b]]
        if not pairs:
            return points[:10], labels[:10]
        first, second = (list(side) for side in zip(*self.chance.sample(pairs, min(4, len(pairs))), strict=True))
        near, far, own = points[first], points[second], labels[first]
        inner = near.clone()
        for _ in range(26):
            middle = (near.double() / 2 + far.double() / 2).to(near.dtype)
            same = answers(case, middle).double().nan_to_num(-math.inf).argmax(1) == own
            same = same.reshape(-1, *[1] * (near.ndim - 1))
            near, far = torch.where(same, middle, near), torch.where(same, far, middle)
        lines = [(near.double() + (inner - near).double() * step).to(near.dtype) for step in STEPS]
        count = len(case.inputs)
        other = torch.randint(self.classes, (count,), generator=self.noise)
        found = torch.cat([case.inputs, case.inputs, *lines])
        labels = torch.cat([labels[:count], other, own.repeat(len(STEPS))])
        if self.chance.random() < 0.15:
            labels = torch.randint(self.classes, labels.shape, generator=self.noise)
        return found.clamp(limits[0], limits[1]), labels

    def _epsilon(self, norm: str) -> float:
        """Draw an ε: none, small, any, or all of the box."""
        features, (low, high) = self.case.inputs[0].numel(), self.case.box
        whole = (high - low) * {"linf": 1.0, "l2": math.sqrt(features), "l1": float(features)}[norm]
        draw = self.chance.random()
        if draw < 0.4:
            return 0.0
        return whole * (10 ** self.chance.uniform(-7, -1) if draw < 0.9 else self.chance.choice((1.0, 10.0, math.inf)))

    def _threat(self, norm: str, epsilon: float, labels: Tensor) -> tuple[Threat, Tensor]:
        if self.chance.random() < 0.25:
            wanted = self.chance.randrange(self.classes)
            threat = Threat.parse(f"{norm}:{epsilon!r};goal=target:{wanted}")
            return threat, torch.full_like(labels, wanted)
        return Threat.parse(f"{norm}:{epsilon!r}"), torch.full_like(labels, -1)

    def _certify(self, graph: Graph, norm: str, examples: Tensor, labels: Tensor) -> None:
        """Ask every certifier about the examples; keep those certified that are closest to failing, and some more."""
        threat, targets = self._threat(norm, self._epsilon(norm), labels)
        for certifier in self.asked:
            self._ask(graph, certifier.name, threat, examples, labels, targets, 5)

    def _widen(self, graph: Graph, name: str) -> None:
        """Seek the largest ε at which a certifier proves anything of the inputs."""
        norm = self.chance.choice(("linf", "l2", "l1"))
        features, (low, high) = self.case.inputs[0].numel(), self.case.box
        whole = (high - low) * {"linf": 1.0, "l2": math.sqrt(features), "l1": float(features)}[norm]
        labels = answers(self.case, self.case.inputs).double().nan_to_num(-math.inf).argmax(1)
        small, large = -7.0, 0.0
        for _ in range(5):
            middle = (small + large) / 2
            threat = Threat.parse(f"{norm}:{whole * 10**middle!r}")
            held = self._ask(graph, name, threat, self.case.inputs, labels, torch.full_like(labels, -1), 2)
            small, large = (middle, large) if held else (small, middle)

    def _ask(
        self, graph: Graph, name: str, threat: Threat, examples: Tensor, labels: Tensor, targets: Tensor, keep: int
    ) -> bool:
        """Certify through the public door, now and then on the module itself; keep claims to attack."""
        case = self.case
        model = case.model if self.chance.random() < 0.005 else graph
        params = (NARROWED if case.seed % 10 == 9 else PARTS).get(name, {})
        try:
            proof = certify(name, model, examples.clone(), labels, threat, box=case.box, **params)
        except UnsupportedError as refusal:
            if "no Lipschitz constant" in str(refusal):  # of products and shares; the other certifiers serve them
                return False
            raise
        features = examples[0].numel()
        radius = threat.perturbations.epsilon + threat.perturbations.tolerance(Box.of(case.box), features)
        concerned = targets != labels
        self.record["tried"] += int(concerned.sum())
        self.record["certified"] += int(proof.certified.sum())
        room = ((proof.margin - proof.slack) / proof.slack.abs().clamp(min=1e-300)).nan_to_num(math.inf, math.inf)
        order = torch.where(proof.certified, room, math.inf).argsort()
        rows = order[: min(keep, int(proof.certified.sum()))].tolist()
        self.record["attacked"] += len(rows)
        # Those that are not certified: their margin and slack are claims all the same.
        others = [row for row in range(len(labels)) if not proof.certified[row] and concerned[row]]
        rows += self.chance.sample(others, min(2, len(others)))
        for row in rows:
            self.claims[threat.perturbations.norm].append(
                {
                    "centres": examples[row],
                    "labels": labels[row],
                    "targets": targets[row],
                    "radius": torch.tensor(radius, dtype=torch.float64),
                    "margin": proof.margin[row].double(),
                    "slack": proof.slack[row].double(),
                    "certified": proof.certified[row],
                    "names": f"{name} {threat}",
                }
            )
        return bool(proof.certified.any())

    def _report(self, kind: str, claims: Claims, row: int, *, value: float, how: str, point: Tensor) -> None:
        if kind == "ratio":
            self.record["ratio"] = max(self.record["ratio"], value)
            return
        known = [(found["kind"], found["claim"].split()[0]) for found in self.record["violations"]]
        if (kind, claims.names[row].split()[0]) not in known:
            self.record["violations"].append(
                {
                    "kind": kind,
                    "claim": claims.names[row],
                    "label": int(claims.labels[row]),
                    "margin": float(claims.margin[row]),
                    "slack": float(claims.slack[row]),
                    "value": value,
                    "how": how,
                }
            )


def _joined(norm: str, claims: list[dict[str, Any]]) -> Claims:
    stacked = {name: torch.stack([claim[name] for claim in claims]) for name in claims[0] if name != "names"}
    return Claims(norm=norm, names=[claim["names"] for claim in claims], **stacked)


def reason(text: str) -> str:
    """Return a refusal without the names and numbers of the one network.

    >>> reason("no proof: p3.0 (gelu). Certificates read linear")
    'no proof: (gelu)'
    """
    text = re.split(r"\. Certificates|; replace|; the model does|; it must", text.splitlines()[0])[0]
    text = re.sub(r"no proof: \S+ \(", "no proof: (", text)
    return re.sub(r"-?\d[\d.e+\-]*", "#", text)[:90].strip()


def trial(seed: int) -> dict[str, Any]:
    """Run one seed; any exception but a refusal is a finding."""
    started = time.process_time()
    try:
        record = Trial(make(seed)).run()
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
        record = {"seed": seed, "family": FAMILIES[seed % len(FAMILIES)], "dtypes": [], "error": text, "violations": []}
    record["seconds"] = round(time.process_time() - started, 3)
    return record


def _prepare() -> None:
    torch.set_num_threads(1)


def fingerprint() -> str:
    """Return a digest of the code whose results are kept."""
    import trustbound

    folders = (Path(trustbound.__file__).parent / "certificates", Path(__file__).parent)
    files = [
        path
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if "fuzz" in path.name or folder != folders[1]
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run(seeds: list[int], processes: int, kept: Path | None = None) -> list[dict[str, Any]]:
    """Run seeds over processes, keeping each finished record in a file that a later run goes on from."""
    records: dict[int, dict[str, Any]] = {}
    head = {"code": fingerprint(), "torch": torch.__version__}
    if kept is not None and kept.exists():
        first, *rest = [json.loads(line) for line in kept.read_text().splitlines() if line.endswith("}")] or [{}]
        records = {record["seed"]: record for record in rest} if first == head else {}
    left = [seed for seed in seeds if seed not in records]
    if kept is not None and not records:
        kept.write_text(json.dumps(head) + "\n")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, processes), mp_context=context, initializer=_prepare) as pool:
        for count, record in enumerate(pool.map(trial, left, chunksize=10), 1):
            records[record["seed"]] = record
            if kept is not None:
                with kept.open("a") as file:
                    file.write(json.dumps(record) + "\n")
            if record["violations"] or "error" in record:
                print(json.dumps(record), flush=True)
            if count % 500 == 0:
                print(f"{count} of {len(left)}", flush=True)
    return [records[seed] for seed in seeds if seed in records]


def summarise(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what was refused, certified, attacked and found, by family and by precision."""
    families: dict[str, dict[str, Any]] = {}
    for family in FAMILIES:
        own = [record for record in records if record["family"] == family]
        served = [record for record in own if "tried" in record and "refused" not in record]
        families[family] = {
            "networks": len(own),
            "refused": sum("refused" in record for record in own),
            "with_certificate": sum(record["certified"] > 0 for record in served),
            "tried": sum(record["tried"] for record in served),
            "certified": sum(record["certified"] for record in served),
            "attacked": sum(record["attacked"] for record in served),
            "worst_error_to_slack": max((record["ratio"] for record in served), default=0.0),
            "violations": sum(bool(record["violations"]) for record in own),
            "errors": sum("error" in record for record in own),
        }
    precisions: dict[str, dict[str, Any]] = {}
    for record in records:
        if "tried" in record and "refused" not in record:
            row = precisions.setdefault(" ".join(record["dtypes"]), {"networks": 0, "certified": 0, "worst": 0.0})
            row["networks"] += 1
            row["certified"] += record["certified"]
            row["worst"] = max(row["worst"], record["ratio"])
    refusals = collections.Counter(record["refused"] for record in records if "refused" in record)
    return {
        "networks": len(records),
        "violations": sum(bool(record["violations"]) for record in records),
        "errors": sum("error" in record for record in records),
        "families": families,
        "precisions": dict(sorted(precisions.items())),
        "refusals": dict(refusals.most_common()),
        "findings": [record for record in records if record["violations"] or "error" in record][:300],
    }


def main() -> None:
    """Run, keep the summary, fail on any finding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seed", type=int, help="show one network and what is found on it")
    given = parser.parse_args()
    if given.seed is not None:
        print(make(given.seed).text)
        print(json.dumps(trial(given.seed), indent=1))
        return
    started = time.perf_counter()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    kept = given.out.with_suffix(".part.jsonl")
    records = run(list(range(given.first, given.first + given.networks)), given.processes, kept)
    summary = {"torch": torch.__version__, "code": fingerprint(), **summarise(records)}
    summary["seconds"] = round(time.perf_counter() - started, 1)
    given.out.write_text(json.dumps(summary, indent=1) + "\n")
    kept.unlink()
    print(json.dumps({name: value for name, value in summary.items() if name != "findings"}, indent=1))
    if summary["violations"] or summary["errors"]:
        raise SystemExit("a certificate was broken, or a reading ended in an error")


if __name__ == "__main__":
    main()
