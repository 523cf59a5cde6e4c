"""PolyDigits: PolyMNIST's recipe on pictures from installed libraries; no download."""

from __future__ import annotations

import numpy as np

from shalabench.api import DataPaths, Dataset, register_dataset, setting
from shalabench.datasets.sources.classes import (
    DigitSettings,
    describe_digits,
    fingerprint_digits,
    keep_digits,
)
from shalabench.datasets.sources.composing import compose, describe_modalities
from shalabench.datasets.sources.digits import (
    SIDE,
    pair_evenly,
    part_digits,
    read_digits,
    read_photographs,
    write_digits,
)
from shalabench.datasets.sources.files import SOURCE, Arrays, cache_file, generate_once, make_splits

_SOURCE = "scikit-learn's digits composed on photographs of scikit-learn and scikit-image"


@register_dataset("polydigits", version=2)
class PolyDigits(Dataset):
    """Five images of one digit: different scans on crops of different photographs.

    The proxy dataset for PolyMNIST: 23,000 tuples by default, made in half a minute; no download.
    Modalities: "m0" to "m4", images `[3, 28, 28]` in [0, 1]. Classes: the ten digits. The digits
    are the 1,797 of scikit-learn (8x8, UCI, Alpaydin and Kaynak 1998), enlarged by cubic
    interpolation under a random affine map. Train, validation and test share no source digit.
    """

    class Config(DigitSettings):
        """Sizes and seed."""

        train: int = setting(
            20_000, "Training tuples.", "our choice: 20 jitters a digit", ge=100, le=1_000_000
        )
        validation: int = setting(1_000, "Validation tuples.", "our choice", ge=10, le=1_000_000)
        test: int = setting(
            2_000, "Test tuples.", "our choice: a standard error of .011", ge=10, le=1_000_000
        )
        modalities: int = setting(
            5, "Photographs used.", "as PolyMNIST (reproduction/polymnist.md)", ge=2, le=10
        )
        seed: int = setting(
            0, "Seed of digits' split, pairing, jitter and crops.", "our choice", ge=0
        )

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        chosen = self.config.digits  # cut from the cached whole
        # Views are hidden later. `missing` is in the names of existing files, at its default.
        complete = type(self)(self.config.model_copy(update={"missing": 0.0}))
        file = cache_file(complete, paths.cache, exclude={"digits"})
        modalities = describe_modalities(self.config.modalities, SIDE)
        sources = [f"{SOURCE}{m.name}" for m in modalities]
        arrays, whole = generate_once(file, self._generate, sources)
        self.set_splits(
            {n: keep_digits(own, chosen) for n, own in make_splits(arrays, modalities).items()},
            modalities=modalities,
            classes=10,
            fingerprint=fingerprint_digits(whole, chosen),
            source=describe_digits(_SOURCE, chosen),
            proxy_for="polymnist",
        )

    def _generate(self) -> dict[str, Arrays]:
        digits, labels = read_digits()
        parts = part_digits(len(digits), self.config.seed)
        backgrounds = read_photographs(self.config.modalities)
        made = {}
        for stream, (split, part) in enumerate(parts.items(), start=1):
            rng = np.random.default_rng([self.config.seed, stream])
            size = getattr(self.config, split)
            chosen, own = pair_evenly(part, labels, size, len(backgrounds), rng)
            made[split] = {"labels": own}
            for m, background in enumerate(backgrounds):
                written = write_digits(digits[chosen[m]], rng)
                made[split][f"m{m}"] = compose(written, background, rng)
                made[split][f"{SOURCE}m{m}"] = chosen[m]
        return made
