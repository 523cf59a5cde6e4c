"""Priors that are fitted to the encodings of a trained method and replace its own prior.

To add one, write a subclass of `FittedPrior` in a new file and add it to `fitted_priors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shalabench.api import ABILITIES, DataSpec, Model, Rng, Settings, Stage, Views
from shalabench.config.training import PriorSettings

_FACTS = ("name", "version", "incomplete", "reduced", "supervision")  # what a class says of itself
_OF_THE_PRIOR = ("prior", "sample", "trace")  # abilities that a method's own prior gives it


class FittedPrior(nn.Module, ABC):
    """A distribution over a shared latent that is learned after the method is trained.

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
    """A method with the prior that the settings select.

    Returns:
        The class itself for `prior.kind=own`; else a `MethodWithPrior`, which is used like a class.
    """
    if settings.kind == "own":
        return cls
    return MethodWithPrior(cls, fitted_priors()[settings.kind], settings)


def identity_of(settings: PriorSettings) -> dict[str, Any]:
    """The settings of a fitted prior, for a run's identity; none for `prior.kind=own`."""
    if settings.kind == "own":
        return {}
    reads = fitted_priors()[settings.kind].reads
    return settings.model_dump(mode="json", include={"kind", *reads})


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
        model = self._cls(spec, config)
        return WithPrior(model, self._prior(_latent_dim(model), self._settings))


class WithPrior(Model):
    """A method whose joint samples come from a fitted prior.

    It keeps the method's other abilities. The method's weights keep their names too, so that runs
    with and without the fitted prior can reuse them.

    Args:
        model: The method, not trained yet.
        prior: The fitted prior, not fitted yet.
    """

    def __init__(self, model: Model, prior: FittedPrior):
        super().__init__(model.spec, model.config)
        self.model, self.fitted = model, prior
        abilities = [vars(ability) for ability in ABILITIES.values()]
        names = {n for v in abilities for n in (*v, *v.get("__annotations__", ())) if n[0] != "_"}
        for name in (*_FACTS, *(names - set(_OF_THE_PRIOR))):
            if hasattr(model, name):
                setattr(self, name, getattr(model, name))

    def stages(self) -> list[Stage]:
        stages = self.model.stages()
        for stage in stages:
            stage.module = self.model if stage.module is None else stage.module
        return [*stages, self.fitted.stage(self.model)]

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]` of the fitted prior."""
        return self.fitted.sample(n, rng)

    def sample(self, n: int, rng: Rng) -> Views:
        """As `Joint.sample`."""
        return self.decode(self.prior(n, rng.fork("shared")), rng)

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


@torch.no_grad()
def _latent_dim(model: Model) -> int:
    """D, by encoding one blank tuple."""
    blank = {
        m.name: torch.zeros(1, *m.shape, dtype=torch.float if m.kind == "image" else torch.long)
        for m in model.spec.modalities
    }
    return model.encode(blank, Rng(0)).shape[1]
