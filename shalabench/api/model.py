"""The contract of a method, and the abilities it may have."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from shalabench.api.dataset import Views
from shalabench.api.modalities import DataSpec
from shalabench.api.random import Rng
from shalabench.api.settings import Settings
from shalabench.api.stage import Stage


class Model(nn.Module):
    """A generative model of several modalities.

    A subclass is one file, decorated with `register_model`. It reads only the `DataSpec` of a
    dataset, trains in stages, and implements the abilities below that it has.

    Args:
        spec: The data's modalities.
        config: An instance of the class's `Config`.

    Attributes:
        incomplete: Whether it can train on tuples with absent views (`Batch.present`).
        reduced: What is missing or smaller than in the published method under all settings, as a
            phrase for the notes of tables; else empty.
        supervision: Training data, if not complete tuples ("single views with cameras").
    """

    Config: ClassVar[type[Settings]] = Settings
    incomplete: ClassVar[bool] = False
    reduced: ClassVar[str] = ""
    supervision: ClassVar[str] = ""

    def __init__(self, spec: DataSpec, config: Settings):
        super().__init__()
        self.spec, self.config = spec, config

    @classmethod
    def skip(cls, spec: DataSpec, config: Settings) -> str | None:
        """The reason why this method cannot run on such data, as a sentence; None if it can."""
        return None

    @abstractmethod
    def stages(self) -> list[Stage]:
        """The phases of training, in order."""


@runtime_checkable
class Joint(Protocol):
    """Generates all modalities together."""

    def sample(self, n: int, rng: Rng) -> Views:
        """Generate `n` tuples from the prior.

        Args:
            n: Number of tuples.
            rng: Random numbers; item i of it makes tuple i.

        Returns:
            Decoder means: images `[n, C, H, W]` in the data's range but unclamped, texts `[n, L]`
            token ids.
        """
        ...


@runtime_checkable
class Translate(Protocol):
    """Generates modalities from given ones.

    Attributes:
        max_given: How many modalities it can be given at once; None for any number.
    """

    max_given: int | None

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        """Generate the targets, one sample for each given tuple.

        The targets of one call are parts of one sample. If the method has a shared latent, they
        share it. If each target has its own latent, these are drawn together. A target does not
        depend on which other targets are requested. Calls with other random numbers give other
        samples.

        Args:
            given: One or more modalities, `[B, ...]` each.
            targets: Names of the modalities to generate.
            rng: Random numbers; item i of it belongs to tuple i.

        Returns:
            Decoder means, as from `Joint.sample`.

        Raises:
            KeyError: A modality is unknown; the message names it.
        """
        ...


@runtime_checkable
class Reconstruct(Protocol):
    """Encodes complete tuples and decodes a posterior sample."""

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        """Decoder means of one posterior sample for each tuple, all modalities given.

        Args:
            views: All modalities, `[B, ...]` each.
            rng: Random numbers; item i of it belongs to tuple i.
        """
        ...


@runtime_checkable
class Latent(Protocol):
    """Has a shared latent vector."""

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """One sample `[B, D]` of the shared latent given some modalities."""
        ...

    def prior(self, n: int, rng: Rng) -> Tensor:
        """`n` samples `[n, D]` of the shared latent from the prior used for joint generation."""
        ...

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at shared latents `[n, D]`.

        Private latents, if there are any, are drawn from their prior.
        """
        ...


@runtime_checkable
class Private(Protocol):
    """Has private latents of single modalities beside the shared one."""

    def encode_all(self, views: Views, rng: Rng) -> Tensor:
        """One sample of all latents of complete tuples, `[B, D + ...]`, the shared one first."""
        ...

    def decode_all(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at all latents, as `encode_all` gives them."""
        ...


@runtime_checkable
class Trace(Protocol):
    """Generates its shared latent from noise in steps, and can return the states in between."""

    def trace(self, n: int, times: Sequence[float], rng: Rng) -> dict[float, Tensor]:
        """The sampler's states on the way to the samples of `Latent.prior` for the same `rng`.

        Args:
            n: Number of latents.
            times: Times t / T in [0, 1]: 1 is noise, 0 the sample.
            rng: Random numbers; item i of it makes latent i.

        Returns:
            Latents `[n, D]` on the scale of the posterior, by time t / T. Each is at the sampler's
            time that is nearest to one of `times`.
        """
        ...


@runtime_checkable
class Transfer(Protocol):
    """Transfers the style of one tuple to another."""

    def transfer(self, source: Views, reference: Views, strength: float, rng: Rng) -> Views:
        """Regenerate `source` in the style of `reference`.

        Args:
            source: All modalities of the tuples whose structure is kept, `[B, ...]` each.
            reference: Modalities of the tuples that give the style, `[B, ...]` each.
            strength: K / T in (0, 1]: the latent gets the noise of K of the T diffusion steps and
                is denoised again.
            rng: Random numbers; item i of it belongs to tuple i.

        A method with a guided diffusion also takes the keyword `guidance`: the scale, or None for
        the one of its settings.
        """
        ...


ABILITIES: dict[str, type] = {
    "joint": Joint,
    "translate": Translate,
    "reconstruct": Reconstruct,
    "latent": Latent,
    "private": Private,
    "trace": Trace,
    "transfer": Transfer,
}
"""Every ability by its name in `shala-bench list`."""
