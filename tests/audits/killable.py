"""A process that imports everything once and then runs command lines in children, which it may kill.

Reads one JSON object a line: {"arguments": […], "log": path, "kill_at": count or null, "delay": seconds,
"file_size": bytes or null}; answers {"code": exit code, -9 when killed, "out": …, "err": …}. Each child writes to
the log what it begins and what it has kept, so that tests can count work done twice and choose when to kill by
progress instead of by the clock.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import time
import traceback


def watched(log):
    """Note in the log whatever an audit begins and keeps."""
    from trustbound.audits import run
    from trustbound.record.store import Store

    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(*words):
        os.write(handle, (json.dumps(words) + "\n").encode())

    execute, commit, fact = run.execute, Store.commit, Store.fact

    def executing(unit, subject, *given):
        if unit.kind != "check":  # checks are kept as facts, which are noted below
            note("begin", unit.step, unit.shard)
        return execute(unit, subject, *given)

    def committing(self, step, shard, *rest):
        commit(self, step, shard, *rest)
        note("kept", step, shard)

    def asking(self, name, compute):
        def noted():
            note("begin", f"fact {name}", 0)
            return compute()

        known = self.has_fact(name)
        value = fact(self, name, noted)
        if not known:
            note("kept", f"fact {name}", 0)
        return value

    run.execute, Store.commit, Store.fact = executing, committing, asking
    note("process", "", os.getpid())


def child(task):
    """Run the command line; never returns."""
    code = 70
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{task['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        watched(task["log"])
        if task.get("file_size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (task["file_size"], resource.RLIM_INFINITY))
        from trustbound.cli.main import main

        sys.argv = ["trustbound", *task["arguments"]]
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def lines(path):
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read().count(b"\n")
    return 0


def answer(task):
    before = lines(task["log"])
    pid = os.fork()
    if pid == 0:
        child(task)
    if task.get("kill_at") is not None:
        while not (ended := os.waitpid(pid, os.WNOHANG))[0] and lines(task["log"]) - before < task["kill_at"]:
            time.sleep(0.001)
        if not ended[0]:
            time.sleep(task["delay"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        status = ended[1] if ended[0] else os.waitpid(pid, 0)[1]
    else:
        status = os.waitpid(pid, 0)[1]
    said = {}
    for name in ("out", "err"):
        with open(f"{task['log']}.{name}") as file:
            said[name] = file.read()
    return {"code": os.waitstatus_to_exitcode(status), **said}


def warm():
    """Import what an audit imports; no backward pass, which would start threads that no child inherits."""
    import torch

    from trustbound.certificates.graph import read
    from trustbound.data import load_data

    torch.set_num_threads(1)
    load_data("digits", limit=10)
    read(torch.nn.Linear(2, 2), torch.rand(2, 2))


if __name__ == "__main__":
    warm()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
