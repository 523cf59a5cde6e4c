"""A dataset from another package."""

import hashlib

import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    DataSpec,
    Modality,
    Split,
    register_dataset,
    setting,
)

SIDE = 4


@register_dataset("outside-dots", version=1)
class Dots(Dataset):
    """A bright image and its dark copy (1x4x4 each)."""

    class Config(DataSettings):
        """Sizes."""

        train: int = setting(64, "Training tuples.", "our choice", ge=16)
        validation: int = setting(16, "Validation tuples.", "our choice", ge=16)
        test: int = setting(16, "Test tuples.", "our choice", ge=16)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        self._splits, digest = {}, hashlib.sha256()
        for seed, name in enumerate(("train", "validation", "test")):
            numbers = torch.Generator().manual_seed(seed)
            shape = (getattr(self.config, name), 1, SIDE, SIDE)
            bright = torch.randint(0, 256, shape, generator=numbers, dtype=torch.uint8)
            self._splits[name] = Split({"bright": bright, "dark": bright // 4})
            digest.update(bright.numpy().tobytes())
        self._fingerprint = digest.hexdigest()

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=tuple(
                Modality(name, "image", (1, SIDE, SIDE)) for name in ("bright", "dark")
            ),
            classes=0,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source="made from a seed",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]
