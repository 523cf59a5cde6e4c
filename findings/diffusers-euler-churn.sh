#!/usr/bin/env bash
# diffusers 0.42.1: with s_churn > 0, EulerDiscreteScheduler and EDMEulerScheduler add the noise in `step`,
# after the denoiser was called. Karras et al. 2022 (arXiv 2206.00364, algorithm 2), whom the second names,
# call the denoiser on the sample with that noise. Here its answer for less noise is taken for more, so the
# sample has more noise than the denoiser is told in the next call: up to 1.7 times in 50 steps.
# Spreads of samples go up with noise predictions and down with EDM's, where they should be the same.
# FlowMatchEulerDiscreteScheduler accepts the four options and ignores them. No upstream issue found.
# Leave s_churn at 0, and do not tune it: the choice would be one of errors.
# This matters for FID and diversity of models that are sampled with diffusers and scored here
# (docs/external.md). The samplers of this project have no churn (docs/priors.md).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'diffusers==0.42.1' 'torch==2.14.1'
"$work/venv/bin/python" -W ignore - << 'END'
import diffusers
import torch
from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

print("diffusers", diffusers.__version__, "torch", torch.__version__)
torch.set_num_threads(1)
N = 50_000


def denoise(x, sigma, variance):
    """The exact denoiser of data from N(0, variance)."""
    return x * variance / (variance + sigma**2)


def sample(scheduler, steps, churn, variance):
    """Standard deviations before each call of the denoiser and at the end."""
    generator = torch.Generator().manual_seed(0)
    scheduler.set_timesteps(steps)
    x, spreads = torch.randn(N, generator=generator) * scheduler.init_noise_sigma, []
    for s, t in zip(scheduler.sigmas, scheduler.timesteps):
        spreads.append(x.std())
        scheduler.scale_model_input(x, t)
        clean = denoise(x, s, variance)
        answer = (x - clean) / s  # the predicted noise
        if isinstance(scheduler, EDMEulerScheduler):
            d = scheduler.config.sigma_data
            answer = (clean - x * d**2 / (s**2 + d**2)) * (s**2 + d**2).sqrt() / (s * d)
        x = scheduler.step(answer, t, x, s_churn=churn, generator=generator).prev_sample
    return torch.stack([*spreads, x.std()])


def published(sigmas, churn, variance):
    """The same from the paper's algorithm 2 without its second-order correction: all steps are linear."""
    v, steps = [sigmas[0] ** 2], len(sigmas) - 1
    for s, after in zip(sigmas[:-1], sigmas[1:]):
        more = s * (1 + min(churn / steps, 2**0.5 - 1))
        slope = (1 - denoise(1.0, more, variance)) / more
        v.append((v[-1] + more**2 - s**2) * (1 + (after - more) * slope) ** 2)
    return torch.stack(v).sqrt()


ends = {}
made = {
    "Euler": lambda: EulerDiscreteScheduler(use_karras_sigmas=True),
    "EDM Euler": EDMEulerScheduler,
}
for name, make in made.items():
    for steps, churn in ((50, 0), (50, 10), (50, 40), (256, 40)):
        scheduler = make()
        levels = sample(scheduler, steps, churn, 0.0)[:-1] / scheduler.sigmas[:-1]
        found = sample(scheduler, steps, churn, 1.0)[-1].item()
        sigmas = scheduler.sigmas.double()
        right = published(sigmas, churn, 0.0)[:-1] / sigmas[:-1]
        wanted = published(sigmas, churn, 1.0)[-1].item()
        print(f"{name}, {steps} steps, s_churn {churn}: data 0: noise {levels[-1]:.3f} of what the", end="")
        print(f" denoiser is told (paper {right[-1]:.3f}); data N(0, 1): spread {found:.3f}", end="")
        print(f" (paper {wanted:.3f})")
        assert abs(right[-1] - 1) < 1e-6
        is_right = abs(levels[-1] - 1) < 0.02 and abs(found - wanted) < 0.02
        assert is_right == (churn == 0), "Samples with churn are right now, or those without are not."
        ends[name, steps, churn] = found
assert ends["Euler", 50, 40] > ends["Euler", 50, 0] > ends["EDM Euler", 50, 40]

flow = []
for churn in (0.0, 40.0):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(50)
    x = torch.randn(N, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(torch.zeros(N), t, x, s_churn=churn, s_noise=2.0).prev_sample
    flow.append(x)
print("flow matching, s_churn 0 and 40: same samples:", torch.equal(*flow))
assert torch.equal(*flow), "Flow matching now has churn."
END
