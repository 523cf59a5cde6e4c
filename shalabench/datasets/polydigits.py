"""PolyDigits: PolyMNIST's recipe on pictures that installed libraries carry; no download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSpec,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.classes import (
    DigitSettings,
    describe_digits,
    fingerprint_digits,
    keep_digits,
)
from shalabench.datasets.sources.composing import compose, describe_modalities, pair
from shalabench.datasets.sources.digits import (
    SIDE,
    draw_evenly,
    part_digits,
    read_digits,
    read_photographs,
    write_digits,
)
from shalabench.datasets.sources.files import digest_of, write_whole

_SOURCE = "scikit-learn's digits composed on photographs of scikit-learn and scikit-image"


@register_dataset("polydigits", version=1)
class PolyDigits(Dataset):
    """Five photographs with the same handwritten digit in each, drawn by different hands.

    The sources are the 1,797 digits of scikit-learn (8x8, UCI, Alpaydin and Kaynak 1998),
    enlarged by cubic interpolation under a random affine map. Train, validation and test
    share no source digit.
    """

    class Config(DigitSettings):
        """Sizes and seed."""

        train: int = setting(20_000, "Training tuples.", "our choice: 20 jitters a digit", ge=100)
        validation: int = setting(1_000, "Validation tuples.", "our choice", ge=10)
        test: int = setting(2_000, "Test tuples.", "our choice: a standard error of .011", ge=10)
        modalities: int = setting(5, "Photographs used.", "PolyMNIST", ge=2, le=5)
        seed: int = setting(0, "Seed of digits' split, pairing, jitter and crops.", "our choice")

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        settings = self.config.model_dump_json(exclude={"digits"})  # they are cut from the whole
        key = hashlib.sha256(f"{self.version}{settings}".encode()).hexdigest()
        file = paths.cache / f"polydigits-{key[:16]}.npz"
        if not file.exists():
            arrays = self._generate()
            write_whole(file, lambda partial: np.savez(partial, **arrays))
        with np.load(file, allow_pickle=False) as arrays:
            self._splits = {
                name: keep_digits(self._read(arrays, name), self.config.digits)
                for name in ("train", "validation", "test")
            }
            self._fingerprint = fingerprint_digits(str(arrays["fingerprint"]), self.config.digits)

    def _read(self, arrays: Mapping[str, np.ndarray], name: str) -> Split:
        views = {
            f"m{m}": torch.from_numpy(arrays[f"{name}_m{m}"]) for m in range(self.config.modalities)
        }
        return Split(views, torch.from_numpy(arrays[f"{name}_labels"]))

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_modalities(self.config.modalities, SIDE),
            classes=10,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source=describe_digits(_SOURCE, self.config.digits),
            proxy_for="polymnist",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _generate(self) -> dict[str, np.ndarray]:
        digits, labels = read_digits()
        parts = part_digits(len(digits), self.config.seed)
        backgrounds = read_photographs()[: self.config.modalities]
        arrays: dict[str, np.ndarray] = {}
        for stream, (split, part) in enumerate(parts.items(), start=1):
            rng = np.random.default_rng([self.config.seed, stream])
            size = getattr(self.config, split)
            pool = [draw_evenly(part, labels[part], size, rng) for _ in backgrounds]
            chosen, arrays[f"{split}_labels"] = pair([labels[index] for index in pool], rng)
            for m, background in enumerate(backgrounds):
                written = write_digits(digits[pool[m][chosen[m]]], rng)
                arrays[f"{split}_m{m}"] = compose(written, background, rng)
        fingerprint = digest_of(arrays[name] for name in sorted(arrays))
        return arrays | {"fingerprint": np.array(fingerprint)}
