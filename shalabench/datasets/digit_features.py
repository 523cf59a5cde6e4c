"""digit-features: a scan of a digit, a table of features of another scan, and its name."""

from __future__ import annotations

from typing import Literal

import numpy as np

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSettings,
    Modality,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.digits import pair_evenly, part_digits, read_digits
from shalabench.datasets.sources.files import (
    SOURCE,
    Arrays,
    cache_file,
    digest_with,
    generate_once,
    make_splits,
)
from shalabench.datasets.sources.mst import ALPHABET, DIGITS, LENGTH, write_words
from shalabench.datasets.sources.shapes import COUNT, SIDE, measure_shapes

_PIXELS = SIDE * SIDE


@register_dataset("digit-features", version=1)
class DigitFeatures(Dataset):
    """A scanned digit, a vector of features of another scan of it, and the digit's name.

    23,000 tuples by default, made in a second; no download. Modalities: "picture" `[1, 8, 8]`, an
    image in [0, 1]; "features", a vector of 36 numbers; "word", eight letters. Classes: the ten
    digits. Pictures and features come from scikit-learn's digits (UCI, Alpaydin and Kaynak 1998),
    each from a different scan; train, validation and test share no scan.
    """

    class Config(DataSettings):
        """Sizes, likelihood and seed."""

        train: int = setting(
            20_000, "Training tuples.", "our choice: as mst-digits", ge=100, le=1_000_000
        )
        validation: int = setting(
            1_000, "Validation tuples.", "our choice: as mst-digits", ge=10, le=1_000_000
        )
        test: int = setting(2_000, "Test tuples.", "our choice: as mst-digits", ge=10, le=1_000_000)
        likelihood: Literal["normal", "laplace"] = setting(
            "normal", "Of the features.", "our choice: standardised numbers"
        )
        seed: int = setting(0, "Seed of the scans' split and pairing.", "our choice", ge=0)

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        likelihood = self.config.likelihood
        file = cache_file(self, paths.cache, exclude={"likelihood", "missing"})
        arrays, drawn = generate_once(file, self._generate)
        modalities = (
            Modality("picture", "image", (1, SIDE, SIDE), "laplace", scale=0.25),
            Modality("features", "vector", (COUNT,), likelihood, scale=0.5),
            Modality(
                "word",
                "text",
                (LENGTH,),
                "categorical",
                weight=_PIXELS / LENGTH,
                vocabulary=ALPHABET,
            ),
        )
        self.set_splits(
            make_splits(arrays, modalities),
            modalities=modalities,
            classes=10,
            fingerprint=digest_with(drawn, likelihood=likelihood),
            source="scikit-learn's digits, features of them, and their names",
        )

    def _generate(self) -> dict[str, Arrays]:
        digits, labels = read_digits()
        parts = part_digits(len(digits), self.config.seed)
        features = measure_shapes(digits)
        known = features[parts["train"]]  # standardised by what may be learnt from
        features = (features - known.mean(0)) / known.std(0)
        features = (np.rint(features * 1024) / 1024).astype(np.float32)  # equal on every machine
        made = {}
        for stream, (split, part) in enumerate(parts.items()):
            rng = np.random.default_rng([self.config.seed, 1, stream])
            size = getattr(self.config, split)
            (seen, measured), own = pair_evenly(part, labels, size, 2, rng)
            made[split] = {
                "picture": np.rint(digits[seen] * 255).astype(np.uint8)[:, None],
                "features": features[measured],
                "word": write_words(own, DIGITS, rng),
                "labels": own,
                f"{SOURCE}picture": seen,
                f"{SOURCE}features": measured,
            }
        return made
