"""Denoising diffusion on vectors or images: schedules, training pairs and a denoiser.

The samplers are in `solvers.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from shalabench.api import Rng
from shalabench.nets.precision import for_sampling, widen

Prediction = Literal["noise", "velocity", "data"]
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""`(z_t [B, ...], t [B] int64 in 1..T) -> prediction [B, ...]`."""


class Schedule(nn.Module):
    """A variance-preserving forward process z_t = signal_t z_0 + sigma_t eps, t = 0 .. T.

    As a part of a network it moves to the device with the weights. It adds nothing to the state.

    Attributes:
        signal: `[T + 1]` float32, the product of the alphas up to t; 1 at t = 0.
        sigma: `[T + 1]` float32, sqrt(1 - signal^2); 0 at t = 0.
        prediction: What the denoiser returns: the noise eps, the velocity signal eps - sigma z_0
            (Salimans and Ho 2022), or the data z_0.
        log_snr: Half the log signal-to-noise ratio, log(signal / sigma), of each t: T + 1 numbers,
            which fall from infinity at t = 0. They stay on the host, where samplers choose times.
    """

    signal: Tensor
    sigma: Tensor

    def __init__(
        self, signal: Tensor, sigma: Tensor, prediction: Prediction, log_snr: tuple[float, ...]
    ):
        super().__init__()
        self.log_snr = log_snr
        self.register_buffer("signal", signal, persistent=False)
        self.register_buffer("sigma", sigma, persistent=False)
        self.prediction = prediction

    @property
    def steps(self) -> int:
        """T."""
        return len(self.signal) - 1

    def predicting(self, prediction: Prediction) -> Schedule:
        """The same process for a denoiser that returns something else."""
        return Schedule(self.signal, self.sigma, prediction, self.log_snr)

    def diffuse(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Sample q(z_t | z_0) with the given noise; `t` is `[B]`."""
        return _at(self.signal, t, z0) * z0 + _at(self.sigma, t, z0) * noise

    def target(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the denoiser should return at z_t."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "data":
            return z0
        return _at(self.signal, t, z0) * noise - _at(self.sigma, t, z0) * z0

    def split(self, z_t: Tensor, t: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The estimates (z_0, eps) that follow from a denoiser's output at z_t."""
        signal, sigma = _at(self.signal, t, z_t), _at(self.sigma, t, z_t)
        if self.prediction == "noise":
            return (z_t - sigma * output) / signal, output
        if self.prediction == "data":
            return output, (z_t - signal * output) / sigma
        return signal * z_t - sigma * output, sigma * z_t + signal * output


def make_schedule(
    kind: Literal["cosine", "linear", "sigmoid"], steps: int, prediction: Prediction
) -> Schedule:
    """Make a schedule by its name.

    Args:
        kind: "cosine" (Nichol and Dhariwal 2021, eq. 17); "sigmoid" from -3 to 3 (Jabri et al.
            2023, figure 8); or "linear" in the variances, 1e-4 to 0.02 for T = 1000 (Ho et al.
            2020, section 4), scaled by 1000 / T otherwise.
        steps: T.
        prediction: What the denoiser returns.
    """
    t = torch.arange(steps + 1, dtype=torch.float64)
    if kind != "linear":
        curve = torch.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        if kind == "sigmoid":
            curve = torch.sigmoid(3 - 6 * t / steps) - torch.sigmoid(torch.tensor(-3.0).double())
        variance = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
    else:
        variance = (torch.linspace(1e-4, 0.02, steps, dtype=torch.float64) * 1000 / steps).clamp(
            max=0.999
        )
    signal = torch.cat([torch.ones(1, dtype=torch.float64), (1 - variance).cumprod(0)]).sqrt()
    return _schedule_of(signal, prediction)


def end_in_noise(schedule: Schedule) -> Schedule:
    """The same schedule with nothing of the data left at t = T (Lin et al. 2024, algorithm 1).

    The signal is shifted to 0 at T, and stretched so that its value at t = 1 stays. Otherwise
    z_T has a rest of a white background in training, but not at the start of sampling. A noise
    prediction at T has no information on the data, so it is not allowed.

    Raises:
        ValueError: The schedule's denoiser predicts noise.
    """
    if schedule.prediction == "noise":
        raise ValueError(
            "A schedule that ends in pure noise cannot go with prediction 'noise'. "
            "Choose 'velocity' or 'data'."
        )
    signal = schedule.signal.double()
    first, last = signal[1], signal[-1]
    signal = torch.cat([signal[:1], (signal[1:] - last) * first / (first - last)])
    return _schedule_of(signal, schedule.prediction)


def _schedule_of(signal: Tensor, prediction: Prediction) -> Schedule:
    """The schedule of a signal `[T + 1]` in float64."""
    sigma = (1 - signal**2).sqrt()
    log_snr = tuple((signal / sigma).log().tolist())
    return Schedule(signal.float(), sigma.float(), prediction, log_snr)


def denoising_loss(denoiser: Denoiser, schedule: Schedule, z0: Tensor, rng: Rng) -> Tensor:
    """Squared error at uniform t, mean over dimensions (Ho et al. 2020, eq. 14); `[B]`."""
    t = 1 + rng.integers(schedule.steps, len(z0))
    noise = rng.normal(*z0.shape)
    output = widen(denoiser(schedule.diffuse(z0, t, noise), t))
    return (output - schedule.target(z0, t, noise)).square().flatten(1).mean(1)


def _at(curve: Tensor, t: Tensor, like: Tensor) -> Tensor:
    return curve[t].view(-1, *(1,) * (like.dim() - 1))


class VectorDenoiser(nn.Module):
    """A residual multilayer perceptron on vectors, modulated by time and condition.

    Args:
        dim: D, size of the vectors.
        condition: C, size of the condition vector.
        width: Units of each layer.
        blocks: Number of residual blocks.
    """

    def __init__(self, dim: int, condition: int, width: int, blocks: int):
        super().__init__()
        self.width = width
        self.enter = nn.Linear(dim, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width)
        self.blocks = nn.ModuleList(_ResidualBlock(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, dim))
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, z: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict from z_t `[B, D]`, t `[B]` and condition `[B, C]`; `[B, D]`.

        A time or a condition that all items share may have one row.
        """
        dtype = self.enter.weight.dtype
        context = self._embed(t) + self.condition(condition.to(dtype))
        return self.leave(self._refine(self.enter(z.to(dtype)), context))

    def mix(self, conditions: Sequence[Tensor], weights: Sequence[float]) -> Denoiser:
        """The weighted sum of the predictions under several conditions, for a sampler.

        All items must have the same time. What depends on the conditions alone is computed here,
        and what depends on the time alone for one row a call. The blocks compute in the arithmetic
        of samplers (`for_sampling`), the rest in that of the weights.

        Args:
            conditions: `[B, C]` each, or `[1, C]` where all items share it.
            weights: Of each condition. They sum to 1.
        """
        branches = list(zip(map(self.condition, conditions), weights, strict=True))
        network, project = for_sampling(self), self.leave[-1]
        normalise, activate, _ = network.leave
        dtype = network.enter.weight.dtype

        def predict(z: Tensor, t: Tensor) -> Tensor:
            time, x = self._embed(t[:1]), network.enter(z.to(dtype))
            outputs = (
                weight * widen(activate(normalise(network._refine(x, (time + c).to(dtype)))))
                for c, weight in branches
            )
            return project(sum(outputs))  # affine, so that the sum may come before it

        return predict

    def _embed(self, t: Tensor) -> Tensor:
        return self.time(embed_time(t, self.width).to(self.enter.weight.dtype))

    def _refine(self, x: Tensor, context: Tensor) -> Tensor:
        """The blocks; `context` is `[B, width]` or `[1, width]`."""
        context = nn.functional.silu(context)
        for block in self.blocks:
            x = block(x, context)
        return x


class _ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.modulate(context).chunk(2, dim=-1)
        return x + self.layers(torch.addcmul(shift, self.norm(x), 1 + scale))


def embed_time(t: Tensor, width: int) -> Tensor:
    """Sines and cosines of t `[B]` at geometric frequencies (Vaswani et al. 2017); `[B, width]`.

    An odd width ends with a zero.
    """
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angles = t[:, None].float() * rates
    waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
    return nn.functional.pad(waves, (0, width % 2))
