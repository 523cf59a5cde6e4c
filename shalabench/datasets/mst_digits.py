"""mst-digits: MNIST-SVHN-Text's recipe on what installed libraries carry; no download."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import torch

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    DataSpec,
    Split,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.composing import pair
from shalabench.datasets.sources.digits import (
    draw_evenly,
    part_digits,
    read_digits,
    read_photographs,
    write_digits,
)
from shalabench.datasets.sources.files import digest_of, modelled, write_whole
from shalabench.datasets.sources.mst import describe_modalities
from shalabench.datasets.sources.words import DIGITS, write_words
from shalabench.datasets.synthetic.house_numbers import paint_numbers

_NAMES = ("mnist", "svhn", "text")


@register_dataset("mst-digits", version=1)
class MstDigits(Dataset):
    """A handwritten digit, a house number in photographs' colours, and the digit's name.

    Both images are drawn from scikit-learn's digits (UCI, Alpaydin and Kaynak 1998) by different
    hands; train, validation and test share no source digit. The modalities have MST's names, shapes
    and weights.
    """

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(20_000, "Training tuples.", "as polydigits", ge=100)
        validation: int = setting(1_000, "Validation tuples.", "as polydigits", ge=10)
        test: int = setting(2_000, "Test tuples.", "as polydigits", ge=10)
        words: tuple[str, ...] = setting(
            DIGITS, "Names of the digits 0 to 9.", "as mst", min_length=10, max_length=10
        )
        text_likelihood: Literal["categorical", "categorical-published"] = setting(
            "categorical",
            "Of the letters: softmax, or what the published code computes in its place.",
            "as mst",
        )
        seed: int = setting(0, "Seed of digits' split, pairing, jitter and colours.", "our choice")

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        settings = self.config.model_dump_json(exclude={"text_likelihood", "missing"})
        key = hashlib.sha256(f"{self.version}{settings}".encode()).hexdigest()
        file = paths.cache / f"mst-digits-{key[:16]}.npz"
        if not file.exists():
            arrays = self._generate()
            write_whole(file, lambda partial: np.savez(partial, **arrays))
        with np.load(file, allow_pickle=False) as arrays:
            self._splits = {
                split: Split(
                    {name: torch.from_numpy(arrays[f"{split}_{name}"]) for name in _NAMES},
                    torch.from_numpy(arrays[f"{split}_labels"]),
                )
                for split in ("train", "validation", "test")
            }
            drawn = str(arrays["fingerprint"])
        self._fingerprint = modelled(drawn, text_likelihood=self.config.text_likelihood)

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_modalities(self.config.text_likelihood),
            classes=10,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source="scikit-learn's digits, plain and painted in the colours of photographs of "
            "scikit-learn and scikit-image, with their names",
            proxy_for="mst",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _generate(self) -> dict[str, np.ndarray]:
        digits, labels = read_digits()
        photographs = read_photographs()
        arrays: dict[str, np.ndarray] = {}
        for stream, (split, part) in enumerate(part_digits(len(digits), self.config.seed).items()):
            rng = np.random.default_rng([self.config.seed, 1, stream])
            size = getattr(self.config, split)
            plain, painted = (draw_evenly(part, labels[part], size, rng) for _ in range(2))
            (first, second), own = pair([labels[plain], labels[painted]], rng)
            arrays |= {
                f"{split}_mnist": write_digits(digits[plain[first]], rng)[:, None],
                f"{split}_svhn": paint_numbers(
                    digits[painted[second]], digits[part], photographs, rng
                ),
                f"{split}_text": write_words(own, self.config.words, rng),
                f"{split}_labels": own,
            }
        fingerprint = digest_of(arrays[name] for name in sorted(arrays))
        return arrays | {"fingerprint": np.array(fingerprint)}
