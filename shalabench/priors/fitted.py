"""Priors that are fitted to the latents of a trained method and replace its own prior.

To add one, write a subclass of `FittedPrior` in a new file, and add it to `fitted_priors` and to
`PriorSettings`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shalabench.api import (
    ABILITIES,
    DataSpec,
    Model,
    Private,
    Rng,
    Settings,
    Split,
    Stage,
    Views,
    derive_seed,
    has_ability,
)
from shalabench.config.training import PriorSettings

_FACTS = ("name", "version", "incomplete", "reduced", "supervision")  # what a class says of itself
_OF_THE_PRIOR = ("prior", "sample", "trace")  # abilities that a method's own prior gives it
_ENCODING_BATCH = 1000  # Tuples at a time.


class FittedPrior(nn.Module, ABC):
    """A distribution over latents that is learned after the method is trained.

    Args:
        dim: D, size of the latents.
        settings: Section "prior" of a run's settings.

    Attributes:
        name: The names of its weights begin with it.
    """

    name: ClassVar[str]

    def __init__(self, dim: int, settings: PriorSettings):
        super().__init__()
        self.dim, self.settings = dim, settings

    @abstractmethod
    def stage(self, latents: Latents) -> Stage:
        """The training stage that fits it to a trained method's latents; see `Stage.sections`."""

    @abstractmethod
    def sample(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]`; item i of `rng` makes latent i."""


class Latents:
    """The latents of a method to which a prior is fitted.

    They are its shared latent and, unless the settings say otherwise, its private ones after it.

    Args:
        model: Has a shared latent.
        private: Whether private latents, where the method has them, are among them.
    """

    def __init__(self, model: Model, *, private: bool):
        self._model = model
        self._whole = private and has_ability(type(model), Private)

    @torch.no_grad()
    def encode(self, split: Split, *purpose: object) -> Tensor:
        """One posterior sample of each tuple, `[N, D]` float32 on the split's device.

        Args:
            split: Complete tuples.
            purpose: Names of the draw, which decide its noise.
        """
        model, found, seed = self._model, [], derive_seed(*purpose)
        encode = model.encode_all if self._whole else model.encode
        was_training = model.training
        model.eval()
        for number, batch in enumerate(split.batches(_ENCODING_BATCH)):
            rng = Rng(seed, first=number * _ENCODING_BATCH, device=split.device)
            found.append(encode(batch.views, rng).float())
        model.train(was_training)
        return torch.cat(found)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at latents `[n, D]`."""
        return self._model.decode_all(z, rng) if self._whole else self._model.decode(z, rng)

    @torch.no_grad()
    def sizes(self) -> tuple[int, int]:
        """Sizes of the shared latent and of all latents, by encoding one blank tuple."""
        blank = {
            m.name: torch.zeros(1, *m.shape, dtype=torch.long if m.kind == "text" else torch.float)
            for m in self._model.spec.modalities
        }
        model, was_training = self._model, self._model.training
        model.eval()  # so that batch normalisation does not learn from it
        shared = model.encode(blank, Rng(0)).shape[1]
        whole = model.encode_all(blank, Rng(0)).shape[1] if self._whole else shared
        model.train(was_training)
        return shared, whole


def fitted_priors() -> dict[str, type[FittedPrior]]:
    """Every fitted prior by the value of `prior.kind` that asks for it."""
    from shalabench.priors.diffusion import DiffusionPrior
    from shalabench.priors.mixture import GaussianMixturePrior

    return {"gmm": GaussianMixturePrior, "diffusion": DiffusionPrior}


def with_prior(cls: type[Model], settings: PriorSettings) -> Any:
    """A method with the prior that the settings select.

    Returns:
        The class itself for `prior.kind=own`; else a `MethodWithPrior`, which is used like a class.
    """
    if settings.kind == "own":
        return cls
    return MethodWithPrior(cls, fitted_priors()[settings.kind], settings)


def identity_of(cls: type[Model], settings: PriorSettings) -> dict[str, Any]:
    """The settings of a method's fitted prior, for a run's identity; none for `prior.kind=own`."""
    if settings.kind == "own":
        return {}
    reads = set(settings.reads)
    if not has_ability(cls, Private):
        reads.remove("private")
    return settings.model_dump(mode="json", include=reads)


class MethodWithPrior:
    """A method and a fitted prior; builds models and has the abilities that they will have."""

    def __init__(self, cls: type[Model], prior: type[FittedPrior], settings: PriorSettings):
        self._cls, self._prior, self._settings = cls, prior, settings
        self.prior, self.sample = WithPrior.prior, WithPrior.sample

    def __getattr__(self, name: str) -> Any:
        if name in _OF_THE_PRIOR or name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._cls, name)

    def skip(self, spec: DataSpec, config: Settings) -> str | None:
        """As `Model.skip`."""
        kind = self._settings.kind
        if not all(callable(getattr(self._cls, name, None)) for name in ("encode", "decode")):
            return f"It has no shared latent that a prior could be fitted to (prior.kind={kind})."
        if spec.missing:
            return f"A prior is fitted to encodings of complete tuples (prior.kind={kind})."
        return self._cls.skip(spec, config)

    def __call__(self, spec: DataSpec, config: Settings) -> WithPrior:
        return WithPrior(self._cls(spec, config), self._prior, self._settings)


class WithPrior(Model):
    """A method whose joint samples come from a fitted prior.

    It keeps the method's other abilities. The method's weights keep their names too, so that runs
    with and without the fitted prior can reuse them.

    Args:
        model: The method, not trained yet.
        prior: The class of the fitted prior.
        settings: Section "prior" of a run's settings.
    """

    def __init__(self, model: Model, prior: type[FittedPrior], settings: PriorSettings):
        super().__init__(model.spec, model.config)
        self._latents = Latents(model, private=settings.private)
        self._shared, whole = self._latents.sizes()
        self.model, self.fitted = model, prior(whole, settings)
        abilities = [vars(ability) for ability in ABILITIES.values()]
        names = {n for v in abilities for n in (*v, *v.get("__annotations__", ())) if n[0] != "_"}
        for name in (*_FACTS, *(names - set(_OF_THE_PRIOR))):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def stages(self) -> list[Stage]:
        stages = self.model.stages()
        for stage in stages:
            stage.module = self.model if stage.module is None else stage.module
        return [*stages, self.fitted.stage(self._latents)]

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, D]` of the fitted prior."""
        return self.fitted.sample(n, rng)[:, : self._shared]

    def sample(self, n: int, rng: Rng) -> Views:
        """As `Joint.sample`."""
        return self._latents.decode(self.fitted.sample(n, rng.fork("shared")), rng)

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """The weights of the prior, whose names begin with the prior's, and those of the method."""
        fitted = self.fitted.state_dict(keep_vars=keep_vars)
        named = {f"{self.fitted.name}_{key}": value for key, value in fitted.items()}
        return {**named, **self.model.state_dict(keep_vars=keep_vars)}

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True) -> None:
        """Restore what `state_dict` gave."""
        start = f"{self.fitted.name}_"
        fitted = {k.removeprefix(start): x for k, x in state.items() if k.startswith(start)}
        self.fitted.load_state_dict(fitted, strict)
        self.model.load_state_dict(
            {k: x for k, x in state.items() if not k.startswith(start)}, strict
        )
