"""Settings that every run has beside those of its method and its data."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from shalabench.api import Dial, DiffusionSettings, Settings, setting


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


class FittedDiffusionSettings(DiffusionSettings):
    """The denoiser of a diffusion prior that is fitted to a trained method's latents."""

    draws: int = setting(
        4, "Posterior samples of each training tuple that it is trained on.", "our choice", ge=1
    )


def _check_components(value: Any) -> Any:
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError("write 'auto', or a number of components from 1 up")


class PriorSettings(Settings):
    """Whether a fitted prior replaces a method's own in joint samples."""

    kind: Literal["own", "gmm", "diffusion"] = setting(
        "own",
        "The method's own prior, a Gaussian mixture, or a diffusion prior like ShaLa's.",
        "our choice: the prior of the method's paper",
    )
    private: bool = setting(
        True,
        "Fit it to private latents too, where the method has them; else these keep their prior.",
        "our choice: all that joint samples are decoded from",
    )
    components: Annotated[Literal["auto"] | int, BeforeValidator(_check_components)] = setting(
        "auto",
        "Gaussians of the mixture: a number, or auto, which tries 5, 10, 20 and 40 until the "
        "likelihood of validation tuples falls.",
        "our choice; 10 in pythae's and MultiVae's sampler",
    )
    covariance: Literal["full", "diag"] = setting(
        "full", "Of each Gaussian.", "pythae's and MultiVae's sampler"
    )
    tuples: int = setting(
        20_000, "Training tuples that the mixture is fitted to.", "our choice", ge=100
    )
    diffusion: FittedDiffusionSettings = FittedDiffusionSettings()

    @property
    def reads(self) -> tuple[str, ...]:
        """The settings that the kind depends on."""
        return _READS[self.kind]


_READS = {
    "own": ("kind",),
    "gmm": ("kind", "private", "components", "covariance", "tuples"),
    "diffusion": ("kind", "private", "diffusion"),
}


_TEMPERATURES = (0.5, 0.7, 0.85, 1.0)


class SamplingSettings(Settings):
    """Dials of every method's samplers, which no training reads."""

    joint_temperature: float = setting(
        1.0,
        "Factor of all noise of latents in joint samples; 1 samples the prior itself.",
        "our choice: none",
        dial=Dial(1.0, _TEMPERATURES, "joint"),
        gt=0,
        allow_inf_nan=False,
    )
    given_temperature: float = setting(
        1.0,
        "Factor of all noise of latents in translation; 1 samples the posterior itself.",
        "our choice: none",
        dial=Dial(1.0, _TEMPERATURES, "cross"),
        gt=0,
        allow_inf_nan=False,
    )


class EvaluateSettings(Settings):
    """How every method is evaluated; a result's provenance holds it, and no identity does."""

    precision: Literal["auto", "bf16", "float32"] = setting(
        "auto",
        "Arithmetic of the denoisers of latents in samplers: bf16 where the device computes in it, "
        "else float32. All else in an evaluation is in float32.",
        "our choice: 2.8 times faster; scores of one run differed by less than their errors "
        "(reproduction/engine.md#precision)",
    )
