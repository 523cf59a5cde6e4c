#!/usr/bin/env bash
# diffusers 0.42.1: DDIMScheduler with timestep_spacing="linspace" asks the denoiser for the times of its
# list, but steps by T // steps, so each sample is at another noise level than the denoiser is told: with
# ten steps, from 999 it goes to 899 and the next call is for 888. The last call is for 0, and its noise
# is that of 11, which stays in the sample. "leading" and "trailing" have equal steps and are right.
# Upstream: huggingface/diffusers#12633 and #11347.
# Here: docs/priors.md says by how much a sampler narrows clusters, from data of N(0, s^2) and the exact
# denoiser. "trailing" gives its values (`ddim`, `uniform`); "linspace" hides the narrowing and shifts
# the mean, so a diffusion prior sampled with it must not be compared with those values.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'diffusers==0.42.1' 'torch==2.14.1'
"$work/venv/bin/python" - << 'END'
import diffusers
import torch
from diffusers import DDIMScheduler

print("diffusers", diffusers.__version__, "torch", torch.__version__)
torch.set_num_threads(1)
M, S = 1.0, 0.1  # the data are N(M, S^2)


def sample(spacing, steps, is_published):
    """Mean and standard deviation of samples, from the ends of one that the noise has."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    x, kept = torch.tensor([-1.0, 1.0], dtype=torch.float64), scheduler.alphas_cumprod.double()
    times = scheduler.timesteps.tolist()
    for t, after in zip(times, [*times[1:], -1]):
        a, b = kept[t], kept[after] if after >= 0 else torch.tensor(1.0)
        clean = M + a.sqrt() * S**2 / (a * S**2 + 1 - a) * (x - a.sqrt() * M)  # E[x_0 | x_t]
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        published = b.sqrt() * clean + (1 - b).sqrt() * noise  # Song et al. 2021, eq. 12
        x = published if is_published else scheduler.step(noise, t, x).prev_sample
    return (x.mean() - M).item() / S, (x[1] - x[0]).item() / 2 / S


for steps in (10, 50):
    for spacing in ("leading", "trailing", "linspace"):
        (m, s), (mean, spread) = (sample(spacing, steps, flag) for flag in (False, True))
        print(f"{steps} steps, {spacing}: spread {s:.3f}, mean {m:+.3f}", end="; ")
        print(f"by DDIM's formula on the same times {spread:.3f}, {mean:+.3f}")
        differs = abs(s - spread) > 0.02
        assert differs == (spacing == "linspace"), f"{spacing} behaves differently now."
END
