#!/usr/bin/env bash
# ema-pytorch 0.8.3: KarrasEMA and PostHocEMA decay for one step at an update, though they update only every
# `update_every` steps (by default 100). Karras et al. 2023 (arXiv 2312.02696, algorithm 2) decay by
# (1 - 1/t)^(gamma + 1) in each of the steps; nothing makes up for those in between. So sigma_rel=0.1, an
# average over the last steps, becomes one that is mostly the untrained weights, and PostHocEMA gives weights
# of another profile than it was asked for. No error, no warning; update_every=1 is right. No issue found.
# The samples' quality is then that of weights from long ago, and "the best sigma_rel" is an artefact.
# This matters for diffusion models that are trained elsewhere and scored here (docs/external.md). This
# project updates its averages in every step (shalabench/api/stage.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'ema-pytorch==0.8.3' 'torch==2.14.1' 'numpy==2.4.6'
"$work/venv/bin/python" - "$work" << 'END'
import sys
from importlib.metadata import version

import torch
from ema_pytorch import KarrasEMA, PostHocEMA

print("ema-pytorch", version("ema-pytorch"), "torch", torch.__version__)
torch.set_num_threads(1)
STEPS = 10_000


def train(model, average):
    """After each step, one weight is the share of training that is done, and one is still as at the start."""
    for step in range(STEPS):
        with torch.no_grad():
            model.weight[0, 0], model.weight[0, 1] = step / STEPS, float(step == 0)
        average.update()


def profile(gamma):
    """Mean time and share of step 0 in the paper's average, from the powers t^gamma themselves."""
    t = torch.arange(STEPS, dtype=torch.float64)
    share = t**gamma / (t**gamma).sum()
    return (share * t / STEPS).sum().item(), share[0].item()


for every in (1, 10, None):
    model = torch.nn.Linear(2, 1, bias=False)
    average = KarrasEMA(model, sigma_rel=0.1, **({} if every is None else {"update_every": every}))
    train(model, average)
    time, first = average.ema_model.weight[0].tolist()
    wanted, _ = profile(average.gamma)
    name = f"update_every={every}" if every else "default update_every"
    print(f"sigma_rel=0.1, {name}: mean time of the averaged weights {time:.3f} of training", end="")
    print(f" (paper {wanted:.3f}), of these the first weights {first:.1%} (paper 0)")
    right = abs(time - wanted) < 0.005 and first < 1e-3
    assert right == (every == 1), "The average no longer depends on update_every."
assert time < 0.1 and first > 0.5, "The default is less far off now."

for every in (1, 10):
    model = torch.nn.Linear(2, 1, bias=False)
    several = PostHocEMA(
        model, sigma_rels=(0.05, 0.28), update_every=every, checkpoint_every_num_steps=1000,
        checkpoint_folder=f"{sys.argv[1]}/{every}", checkpoint_dtype=torch.float64,
    )  # fmt: skip
    train(model, several)
    made = several.synthesize_ema_model(sigma_rel=0.15)
    time, (wanted, _) = made.ema_model.weight[0, 0].item(), profile(made.gamma)
    print(f"PostHocEMA, update_every={every}, sigma_rel=0.15: mean time {time:.3f} (paper {wanted:.3f})")
    assert (abs(time - wanted) < 0.01) == (every == 1), "PostHocEMA no longer depends on update_every."
END
