"""How long `trustbound --help` takes."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def main(rounds: int = 7) -> None:
    """Print the median of several runs."""
    command = [sys.executable, "-m", "trustbound.cli.main", "--help"]
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    bare = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        bare.append(time.perf_counter() - started)
    print(f"trustbound --help: {statistics.median(seconds):.3f} s (an empty Python: {statistics.median(bare):.3f} s)")


if __name__ == "__main__":
    main()
