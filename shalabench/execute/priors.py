"""Priors that are fitted to a trained method's encodings, in place of its own prior.

A new one is a subclass of `FittedPrior` in a file of its own, and a line of `fitted_priors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shalabench.api import ABILITIES, DataSpec, Model, Rng, Settings, Stage, Views
from shalabench.config.settings import PriorSettings

_OF_THE_PRIOR = ("prior", "sample", "trace")  # abilities that a method's own prior gives it


class FittedPrior(nn.Module, ABC):
    """A distribution over a shared latent that is learned after the method's own training.

    Args:
        dim: D, size of the latent.
        settings: Section "prior" of a run's settings.

    Attributes:
        name: The names of its weights begin with it.
        reads: The settings that it depends on, which are part of a run's identity.
    """

    name: ClassVar[str]
    reads: ClassVar[tuple[str, ...]]

    def __init__(self, dim: int, settings: PriorSettings):
        super().__init__()
        self.dim, self.settings = dim, settings

    @abstractmethod
    def stage(self, model: Model) -> Stage:
        """The training stage that fits it to encodings by `model`; see `Stage.sections`."""

    @abstractmethod
    def sample(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]`; item i of `rng` makes latent i."""


def fitted_priors() -> dict[str, type[FittedPrior]]:
    """Every fitted prior by the value of `prior.kind` that asks for it."""
    from shalabench.execute.mixture import GaussianMixturePrior

    return {"gmm": GaussianMixturePrior}


def with_prior(cls: type[Model], settings: PriorSettings) -> Any:
    """A method with the prior that the settings ask for.

    Returns:
        The class itself for its own prior; else a `MethodWithPrior`, which is used as a class is.
    """
    kinds = fitted_priors()
    return MethodWithPrior(cls, kinds[settings.kind], settings) if settings.kind in kinds else cls


def identity_of(settings: PriorSettings) -> dict[str, Any]:
    """What a fitted prior adds to the identity of a training; nothing for a method's own prior."""
    prior = fitted_priors().get(settings.kind)
    return settings.model_dump(mode="json", include={"kind", *prior.reads}) if prior else {}


class MethodWithPrior:
    """A method's class together with a fitted prior: it has its abilities and builds its models."""

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
        model = self._cls(spec, config)
        return WithPrior(model, self._prior(_latent_dim(model), self._settings))


class WithPrior(Model):
    """A method whose joint samples come from a fitted prior.

    It has the abilities of the method, except for those of the method's own prior. Its weights keep
    the method's names, so that runs with and without the prior can share them.

    Args:
        model: The method.
        prior: What stands in for its own prior.
    """

    def __init__(self, model: Model, prior: FittedPrior):
        super().__init__(model.spec, model.config)
        self.model, self.fitted = model, prior
        names = {name for kind in ABILITIES.values() for name in (*vars(kind), *_annotated(kind))}
        for name in names:
            if name[0] != "_" and name not in _OF_THE_PRIOR and hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def stages(self) -> list[Stage]:
        stages = self.model.stages()
        for stage in stages:
            stage.module = stage.module or self.model
        return [*stages, self.fitted.stage(self.model)]

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]` of the fitted prior."""
        return self.fitted.sample(n, rng)

    def sample(self, n: int, rng: Rng) -> Views:
        """As `Joint.sample`."""
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """The weights of the method, and those of the prior after its name."""
        fitted = self.fitted.state_dict(keep_vars=keep_vars)
        named = {f"{self.fitted.name}_{key}": value for key, value in fitted.items()}
        return {**self.model.state_dict(keep_vars=keep_vars), **named}

    def load_state_dict(self, state: dict[str, Tensor], strict: bool = True) -> None:
        """Restore what `state_dict` gave."""
        start = f"{self.fitted.name}_"
        fitted = {k.removeprefix(start): x for k, x in state.items() if k.startswith(start)}
        self.fitted.load_state_dict(fitted, strict)
        self.model.load_state_dict(
            {k: x for k, x in state.items() if not k.startswith(start)}, strict
        )


def _annotated(ability: type) -> dict[str, Any]:
    return vars(ability).get("__annotations__", {})


@torch.no_grad()
def _latent_dim(model: Model) -> int:
    """D, by encoding one blank tuple."""
    blank = {
        m.name: torch.zeros(1, *m.shape, dtype=torch.float if m.kind == "image" else torch.long)
        for m in model.spec.modalities
    }
    return model.encode(blank, Rng(0)).shape[1]
