"""Samplers: from noise to data by a denoiser, each a pure function."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from shalabench.api import Rng, Sampler, Spacing
from shalabench.nets.diffusion import Denoiser, Schedule
from shalabench.nets.precision import widen

Revise = Callable[[Tensor, int], Tensor]
"""`(z_t [B, ...], t) -> z_t [B, ...]`, called before each prediction and at t = 0."""

# Below this half log-SNR z_t is noise but for .6 %. The cosine schedule, whose variances are
# clamped, jumps from -6.5 to -9.9 in its last step, where calls would be wasted. The value is that
# of the code of Lu et al. 2022 for this schedule.
_LOWEST = -5.1


def sample(
    sampler: Sampler,
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    rng: Rng,
    *,
    steps: int | None,
    start: int | None = None,
    revise: Revise | None = None,
    spacing: Spacing = "uniform",
) -> Tensor:
    """Run the reverse process by the sampler's name.

    Args:
        sampler: "ddim" (`sample_ddim`), "dpm++" (`sample_dpm`) or "ancestral"
            (`sample_ancestral`).
        denoiser: Prediction of the kind that the schedule names.
        schedule: The forward process.
        z: z_start, `[B, ...]`.
        rng: Noise of the steps; only "ancestral" uses it.
        steps: Number of denoiser calls; None makes one for every t.
        start: The t of `z`; None is T.
        revise: Changes z at each time, for example to keep parts of it.
        spacing: Of the times.

    Returns:
        z_0, `[B, ...]`.
    """
    steps = steps or schedule.steps
    if sampler == "ancestral":
        return sample_ancestral(
            denoiser, schedule, z, rng, steps=steps, start=start, revise=revise, spacing=spacing
        )
    solve = sample_ddim if sampler == "ddim" else sample_dpm
    return solve(denoiser, schedule, z, steps, start=start, revise=revise, spacing=spacing)


def sample_ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    steps: int,
    *,
    start: int | None = None,
    revise: Revise | None = None,
    spacing: Spacing = "uniform",
) -> Tensor:
    """Deterministic reverse process (Song et al. 2021, eq. 12 with eta = 0).

    It is of first order: few steps narrow the samples (docs/priors.md has a table).

    Arguments and result are those of `sample`.
    """
    revise = revise or _leave
    for now, then in pairwise(_times(schedule, steps, start, spacing)):
        z = revise(z, now)
        data, noise = _split(denoiser, schedule, z, now)
        z = schedule.signal[then] * data + schedule.sigma[then] * noise
    return revise(z, 0)


def sample_dpm(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    steps: int,
    *,
    start: int | None = None,
    revise: Revise | None = None,
    spacing: Spacing = "uniform",
) -> Tensor:
    """DPM-Solver++(2M), deterministic and of second order (Lu et al. 2022, algorithm 2).

    One call a step: the data prediction is extrapolated linearly from the last two, in the half
    log signal-to-noise ratio. The first step is of first order, as in the algorithm, and so is the
    last step, whose end t = 0 has an infinite ratio: it takes the data prediction.

    Arguments and result are those of `sample`.
    """
    revise, before = revise or _leave, z
    times = _times(schedule, steps, start, spacing)
    for now, (keep, add, extrapolate) in zip(times[:-1], _weights(schedule, times), strict=True):
        z = revise(z, now)
        data, _ = _split(denoiser, schedule, z, now)
        ahead = torch.lerp(before, data, 1 + extrapolate) if extrapolate else data
        z, before = torch.add(keep * z, ahead, alpha=add), data
    return revise(z, 0)


def _weights(schedule: Schedule, times: Sequence[int]) -> list[tuple[float, float, float]]:
    """The factors of a step of `sample_dpm`, on the host.

    Of z and of the data prediction, sigma' / sigma and signal' (1 - exp(-h)), where h is the step
    in the half log-SNR; and 1 / (2 r) = h / (2 h_before), by which the prediction is extrapolated.
    """
    weights, before = [], math.inf
    for now, then in pairwise(schedule.log_snr[t] for t in times):
        h = then - now
        # sigma = (1 + exp(2 log_snr))^-1/2, and the signal is that of the opposite log_snr.
        keep = math.sqrt((1 + math.exp(2 * now)) / (1 + math.exp(2 * then)))
        add = -math.expm1(-h) / math.sqrt(1 + math.exp(-2 * then))
        weights.append((keep, add, 0.0 if math.isinf(h) else h / (2 * before)))
        before = h
    return weights


def sample_ancestral(
    denoiser: Denoiser,
    schedule: Schedule,
    z: Tensor,
    rng: Rng,
    *,
    steps: int | None = None,
    start: int | None = None,
    revise: Revise | None = None,
    spacing: Spacing = "uniform",
) -> Tensor:
    """The reverse process of DDPM, with one denoiser call a step (Ho et al. 2020, algorithm 2).

    The variance of a step from t to s is that of q(z_s | z_t, z_0).

    Arguments and result are those of `sample`.
    """
    revise = revise or _leave
    for now, then in pairwise(_times(schedule, steps or schedule.steps, start, spacing)):
        z = revise(z, now)
        data, _ = _split(denoiser, schedule, z, now)
        alpha = schedule.signal[now] / schedule.signal[then]  # of this one step
        before, after = schedule.sigma[then] ** 2, schedule.sigma[now] ** 2
        mean = (alpha * before * z + schedule.signal[then] * (1 - alpha**2) * data) / after
        z = mean + ((1 - alpha**2) * before / after).sqrt() * rng.normal(*z.shape)
    return revise(z, 0)


def correct(
    denoiser: Denoiser, schedule: Schedule, z: Tensor, t: int, ratio: float, rng: Rng
) -> Tensor:
    """One step of Langevin dynamics at a fixed t (Song et al. 2021, algorithm 5).

    The step size is 2 alpha_t (ratio |noise| / |score|)^2 with the expected norms, by which |score|
    is |noise| / sigma_t. Norms measured over a batch would make a sample depend on its batch. Norms
    of each item would make the step depend on the state, which is biased.

    Args:
        denoiser: Prediction of the kind that the schedule names.
        schedule: The forward process.
        z: z_t, `[B, ...]`.
        t: In 1 .. T.
        ratio: Signal-to-noise ratio r of the step.
        rng: Noise of the step.

    Returns:
        z_t, `[B, ...]`.
    """
    _, estimate = _split(denoiser, schedule, z, t)
    alpha = (schedule.signal[t] / schedule.signal[t - 1]) ** 2  # of the last step of the T
    step = 2 * alpha * (ratio * schedule.sigma[t]) ** 2
    return z - step * estimate / schedule.sigma[t] + (2 * step).sqrt() * rng.normal(*z.shape)


def _split(denoiser: Denoiser, schedule: Schedule, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """The estimates (z_0, eps) where all items have the time t."""
    times = torch.full((len(z),), t, device=z.device)
    return schedule.split(z, times, widen(denoiser(z, times)))


def _times(schedule: Schedule, steps: int, start: int | None, spacing: Spacing) -> list[int]:
    """The times of the calls, from `start` down, and 0; fewer calls where `start` has no more."""
    start = schedule.steps if start is None else start
    calls = min(steps, start)
    if spacing == "uniform":
        return torch.linspace(start, 0, calls + 1).round().long().tolist()
    lowest, highest = max(schedule.log_snr[start], _LOWEST), schedule.log_snr[1]
    times = [start]
    for number in range(1, calls):
        wanted = lowest + (highest - lowest) * number / (calls - 1)
        after = bisect_left(schedule.log_snr, -wanted, 1, start, key=operator.neg)  # first below
        nearest = min(after, max(after - 1, 1), key=lambda t: abs(schedule.log_snr[t] - wanted))
        # All times differ, and enough of them are left for the calls to come.
        times.append(max(min(nearest, times[-1] - 1), calls - number))
    return [*times, 0]


def _leave(z: Tensor, t: int) -> Tensor:
    return z
