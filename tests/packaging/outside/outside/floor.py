"""A method from another package."""

import torch
from torch import Tensor, nn

from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Model,
    Optimiser,
    Rng,
    Settings,
    Stage,
    Views,
    register_model,
    setting,
)


@register_model("outside-floor", paper="no paper: a floor", version=1)
class Floor(Model):
    """Learns the mean image of each modality."""

    class Config(Settings):
        """Length of the training."""

        steps: int = setting(20, "Updates.", "our choice", ge=1)
        batch_size: int = setting(16, "Tuples an update.", "our choice", ge=1)

    def __init__(self, spec: DataSpec, config: Settings):
        super().__init__(spec, config)
        self.means = nn.ParameterDict(
            {m.name: nn.Parameter(torch.zeros(1, *m.shape)) for m in spec.modalities}
        )

    @classmethod
    def skip(cls, spec: DataSpec, config: Settings) -> str | None:
        texts = [m.name for m in spec.modalities if m.kind == "text"]
        return f"Texts have no mean image: {', '.join(texts)}." if texts else None

    def stages(self) -> list[Stage]:
        c = self.config
        optimiser = Optimiser(lr=0.05)
        return [
            GradientStage(
                "fit", self._loss, self, optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        errors = {name: (x - self.means[name]).square().mean() for name, x in batch.views.items()}
        return sum(errors.values()), errors

    def sample(self, n: int, rng: Rng) -> Views:
        return {
            name: mean.expand(n, *mean.shape[1:]).clamp(0, 1) for name, mean in self.means.items()
        }
