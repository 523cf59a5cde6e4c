"""Settings that every run has beside those of its method and its data."""

from __future__ import annotations

from typing import Literal

from shalabench.api import Settings, setting


class TrainSettings(Settings):
    """How every method is trained; part of a run's identity but for `ids.NOT_IDENTITY`."""

    precision: Literal["auto", "bf16", "float32"] = setting(
        "auto",
        "Arithmetic of training: bf16 where it is faster, else float32; a record holds which.",
        "our choice: 1.75 times faster on a CPU that has bf16, 6 to 35 times slower on one that "
        "emulates it (reproduction/engine.md#precision)",
    )
    channels_last: bool = setting(
        True,
        "Memory order of images.",
        "our choice: faster, same numbers (reproduction/engine.md#training-loop)",
    )
    tf32: bool = setting(
        False,
        "Use TF32 for products in float32, on NVIDIA GPUs only; false leaves torch's defaults.",
        "torch's default: on for convolutions alone",
    )
    graphs: bool = setting(
        False,
        "Capture the updates as CUDA graphs, on NVIDIA GPUs only.",
        "our choice: the same updates with fewer launches",
    )
    compile: bool = setting(False, "Compile the networks (--compile).", "our choice")
    log_every: int = setting(50, "Updates between two readings of the losses.", "our choice", ge=1)


class PriorSettings(Settings):
    """Whether a fitted Gaussian mixture replaces a method's prior in joint samples."""

    kind: Literal["own", "gmm"] = setting(
        "own", "The method's prior, or a mixture fitted to its encodings (a floor).", "our choice"
    )
    components: int = setting(
        10, "Gaussians of the mixture.", "pythae's and MultiVae's sampler", ge=1
    )
    covariance: Literal["full", "diag"] = setting(
        "full", "Of each Gaussian.", "pythae's and MultiVae's sampler"
    )
    tuples: int = setting(20_000, "Training tuples that it is fitted to.", "our choice", ge=100)


class EvaluateSettings(Settings):
    """How every method is evaluated; a result's provenance holds it, and no identity does."""

    precision: Literal["auto", "bf16", "float32"] = setting(
        "auto",
        "Arithmetic of the denoisers of latents in samplers: bf16 where the device computes in it, "
        "else float32. All else in an evaluation is in float32.",
        "our choice: 2.8 times faster; scores of one run differed by less than their errors "
        "(reproduction/engine.md#precision)",
    )
