#!/usr/bin/env bash
# ray 2.60.0: a task that asks for no GPU (num_gpus=0, the default) sees all GPUs of its node. Up to ray
# 2.55 its CUDA_VISIBLE_DEVICES was empty. So runs that are meant for the CPU would all take the first
# GPU. RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 brings the former behaviour back. The GPUs here are made up:
# only the variable is read. shalabench/execute/backends.py empties it itself in such tasks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ray==2.60.0'
cat > "$work/tasks.py" << 'END'
import os

import ray

ray.init("local", num_cpus=2, num_gpus=2, include_dashboard=False, object_store_memory=80 * 2**20)


def seen():
    return os.environ.get("CUDA_VISIBLE_DEVICES")


found = [ray.get(ray.remote(num_gpus=n)(seen).remote()) for n in (0, 1)]
print(f"ray {ray.__version__}: with no GPU {found[0]!r}, with one {found[1]!r}")
END
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=disabled RAY_raylet_start_wait_time_s=240
export CUDA_VISIBLE_DEVICES=0,1
for override in 0 1; do
  export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=$override
  line=$("$work/venv/bin/python" "$work/tasks.py" 2> /dev/null)
  echo "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=$override: $line"
  [ "$override" = 1 ] && expected="with no GPU '', with one '0'" || expected="with no GPU '0,1', with one '0'"
  case $line in *"$expected") ;; *) echo "Tasks now see other GPUs." >&2; exit 1 ;; esac
done
