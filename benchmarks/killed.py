"""What a kill costs: an audit ended inside a proof, inside the curve and inside a check, each time given again.

    python -m benchmarks.killed [NAME]     a situation by its name; kept in results/killed.json, and the table

`kill -9` meets the proof, SIGTERM the curve, Ctrl-C a check, each a few seconds after the run directory last grew. What
was done since then is done again: its seconds are told. The bracket at the end is that of an audit that nobody ended.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.page import fill
from benchmarks.situations import SITUATIONS

RESULTS = Path(__file__).parent / "results" / "killed.json"
#: Which signal, after which step is kept, and in what it then finds the audit.
MOMENTS = (
    (signal.SIGKILL, "/proof-lipschitz", "a proof"),
    (signal.SIGTERM, "/curve-", "the curve"),
    (signal.SIGINT, "/attacked", "a check"),
)
#: A process whose parent ignores SIGINT would ignore it, too.
HEARD = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('trustbound', run_name='__main__', alter_sys=True)"
)


def held(run: Path) -> tuple[int, list[str]]:
    """How much a run directory holds, units and facts, and the names of the steps that it has units of."""
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(run / "audit.sqlite")) as base,
    ):
        steps = [step for (step,) in base.execute("SELECT step FROM unit")]
        return len(steps) + base.execute("SELECT count(*) FROM fact").fetchone()[0], steps
    return 0, []


def ended(command: list[str], run: Path, with_signal: signal.Signals, after: str, wait: float) -> dict[str, Any]:
    """Start the command, end it `wait` seconds after the run last grew behind a step; what was not kept."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        known, grew = 0, time.monotonic()
        while process.poll() is None:
            count, steps = held(run)
            if count != known:
                known, grew = count, time.monotonic()
            if any(after in step for step in steps) and time.monotonic() - grew >= wait:
                break
            time.sleep(0.05)
        lost = time.monotonic() - grew
        process.send_signal(with_signal)
        return {"seconds": round(lost, 1), "code": process.wait()}


def audited(command: list[str]) -> tuple[dict[str, Any], float]:
    """The record of a command that is left alone, and its seconds."""
    started = time.monotonic()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    if done.returncode > 3:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout), time.monotonic() - started


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="colour-resnet")
    situation = next(one for one in SITUATIONS if one.name == parser.parse_args().name)
    arguments = [os.path.expandvars(part) for part in situation.arguments()]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", HEARD, "audit", *arguments, "--run", str(Path(folder) / "killed")]
        rows = []
        for with_signal, after, where in MOMENTS:
            told = ended(command, Path(folder) / "killed", with_signal, after, wait=3.0)
            rows.append({"signal": with_signal.name, "where": where, **told})
            print(json.dumps(rows[-1]), flush=True)
        record, seconds = audited(command)
        with contextlib.closing(sqlite3.connect(Path(folder) / "killed" / "audit.sqlite")) as base:
            longest = base.execute("SELECT step, max(seconds) FROM unit WHERE step NOT LIKE '%checks%'").fetchone()
        whole, alone = audited([*command[:-1], str(Path(folder) / "whole")])
    found = {
        "situation": situation.said,
        "ends": rows,
        "longest_unit": [longest[0], round(longest[1], 1)],
        "went_on_seconds": round(seconds, 1),
        "whole_seconds": round(alone, 1),
        "same": record["brackets"] == whole["brackets"],
    }
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["| ended by | inside | exit code | seconds not kept |", "| --- " * 4 + "|"]
    lines += [f"| {row['signal']} | {row['where']} | {row['code']} | {row['seconds']:.0f} |" for row in rows]
    lines.append(
        f"\n{situation.said}: the bracket is {'the same' if found['same'] else 'ANOTHER'} as that of an audit that "
        f"nobody ended. The longest unit of work took {longest[1]:.0f} s ({longest[0].rpartition('/')[2]})."
    )
    fill("killed", "\n".join(lines))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
