"""mst-digits: MNIST-SVHN-Text's recipe on pictures from installed libraries; no download."""

from __future__ import annotations

from typing import Literal

import numpy as np

from shalabench.api import DataPaths, Dataset, DataSettings, register_dataset, setting
from shalabench.datasets.sources.digits import (
    pair_evenly,
    part_digits,
    read_digits,
    read_photographs,
    write_digits,
)
from shalabench.datasets.sources.files import (
    SOURCE,
    Arrays,
    cache_file,
    digest_with,
    generate_once,
    make_splits,
)
from shalabench.datasets.sources.mst import DIGITS, describe_modalities, write_words
from shalabench.datasets.synthetic.house_numbers import paint_numbers


@register_dataset("mst-digits", version=2)
class MstDigits(Dataset):
    """A white handwritten digit, another in colours of photographs, and the digit's name.

    The proxy dataset for MNIST-SVHN-Text: 23,000 tuples by default, made in half a minute; no
    download. Modalities have MST's names, shapes and weights: "mnist" `[1, 28, 28]` and "svhn"
    `[3, 32, 32]`, images in [0, 1]; "text", eight letters. Classes: the ten digits. Both images
    come from scikit-learn's digits (UCI, Alpaydin and Kaynak 1998), each from a different scan;
    train, validation and test share no source digit.
    """

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(
            20_000, "Training tuples.", "our choice: as polydigits", ge=100, le=1_000_000
        )
        validation: int = setting(
            1_000, "Validation tuples.", "our choice: as polydigits", ge=10, le=1_000_000
        )
        test: int = setting(2_000, "Test tuples.", "our choice: as polydigits", ge=10, le=1_000_000)
        words: tuple[str, ...] = setting(
            DIGITS,
            "Names of the digits 0 to 9.",
            "our choice: as mst",
            min_length=10,
            max_length=10,
        )
        text_likelihood: Literal["categorical", "categorical-published"] = setting(
            "categorical",
            "Of the letters: softmax, or what the published code computes in its place.",
            "our choice: as mst",
        )
        seed: int = setting(
            0, "Seed of digits' split, pairing, jitter and colours.", "our choice", ge=0
        )

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        likelihood = self.config.text_likelihood
        file = cache_file(self, paths.cache, exclude={"text_likelihood", "missing"})
        sources = [f"{SOURCE}mnist", f"{SOURCE}svhn"]
        arrays, drawn = generate_once(file, self._generate, sources)
        modalities = describe_modalities(likelihood)
        self.set_splits(
            make_splits(arrays, modalities),
            modalities=modalities,
            classes=10,
            fingerprint=digest_with(drawn, text_likelihood=likelihood),
            source="scikit-learn's digits, plain and painted in the colours of photographs of "
            "scikit-learn and scikit-image, with their names",
            proxy_for="mst",
        )

    def _generate(self) -> dict[str, Arrays]:
        digits, labels = read_digits()
        photographs = read_photographs()
        made = {}
        for stream, (split, part) in enumerate(part_digits(len(digits), self.config.seed).items()):
            rng = np.random.default_rng([self.config.seed, 1, stream])
            size = getattr(self.config, split)
            (plain, painted), own = pair_evenly(part, labels, size, 2, rng)
            made[split] = {
                "mnist": write_digits(digits[plain], rng)[:, None],
                "svhn": paint_numbers(digits[painted], digits[part], photographs, rng),
                "text": write_words(own, self.config.words, rng),
                "labels": own,
                f"{SOURCE}mnist": plain,
                f"{SOURCE}svhn": painted,
            }
        return made
