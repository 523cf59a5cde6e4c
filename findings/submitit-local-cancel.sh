#!/usr/bin/env bash
# submitit 1.5.4: `Job.cancel` of the local executor sends SIGINT, and a process keeps ignoring SIGINT if
# its parents did. So in a script that a shell has started in the background (`&`, as in CI), a cancelled
# job runs on to its end. In the foreground, it ends at once. On Slurm, `scancel` is used instead.
# tests/execute/test_slurm.py takes the default action of SIGINT back for it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'submitit==1.5.4'
"$work/venv/bin/python" - "$work" << 'END'
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

import submitit

print("submitit", version("submitit"))


def work(file, seconds):
    Path(file).touch()
    time.sleep(seconds)
    Path(file + "-whole").touch()


whole = {}
for name, action in (("default", signal.SIG_DFL), ("ignored", signal.SIG_IGN)):
    signal.signal(signal.SIGINT, action)
    executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="local")
    executor.update_parameters(timeout_min=5)
    file = f"{sys.argv[1]}/{name}"
    job = executor.submit(work, file, 8)
    while not Path(file).exists():
        time.sleep(0.05)
    job.cancel()
    last = time.monotonic() + 30
    while time.monotonic() < last and not Path(file + "-whole").exists():
        time.sleep(0.2)
    whole[name] = Path(file + "-whole").exists()
    print(f"SIGINT {name}: the cancelled job worked to its end: {whole[name]}")
assert whole == {"default": False, "ignored": True}, "Cancelled jobs now end, or run on, alike."
END
