"""Interval bounds and CROWN on 100 MNIST images: seconds, certified share, and memory against the batch."""

from __future__ import annotations

import resource
import time

import trustbound as tb
from benchmarks.networks import load


def main() -> None:
    """Print one line for each network and certifier."""
    data = tb.load_data("mnist", split="test", limit=100)
    for name, threat in (("mnist-cnn", "linf:0.02"), ("mnist-cnn-hardened", "linf:0.1"), ("mnist-fc", "linf:0.02")):
        model = load(name)
        for certifier in ("interval", "lipschitz", "crown"):
            started = time.perf_counter()
            proof = tb.certify(certifier, model, data.inputs, data.labels, tb.Threat.parse(threat))
            seconds = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(
                f"{name:<20}{threat:<12}{certifier:<12}{seconds:7.2f} s  certified "
                f"{int(proof.certified.sum()):>3} of 100  peak memory {peak:.2f} GiB",
                flush=True,
            )


if __name__ == "__main__":
    main()
