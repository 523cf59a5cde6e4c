"""polydigits-quadrant: a digit and its place, of which each label names one; no download."""

from __future__ import annotations

import numpy as np

from shalabench.api import (
    END,
    Attribute,
    DataPaths,
    Dataset,
    DataSettings,
    Grammar,
    Modality,
    register_dataset,
    setting,
)
from shalabench.datasets.sources.composing import compose
from shalabench.datasets.sources.digits import (
    CANVAS,
    pair_evenly,
    part_digits,
    place_digits,
    read_digits,
    read_photographs,
)
from shalabench.datasets.sources.files import (
    SOURCE,
    Arrays,
    cache_file,
    digest_with,
    generate_once,
    make_splits,
)
from shalabench.datasets.sources.mst import DIGITS

PLACES = ("top-left", "top-right", "bottom-left", "bottom-right")
ATTRIBUTES = (Attribute("digit", DIGITS), Attribute("place", PLACES))
LENGTH = 2  # a word and its end; see findings/torch-transposed-convolution-bf16.sh
GRAMMAR = Grammar.from_text(ATTRIBUTES, "label = [digit] | [place]", longest=1)


@register_dataset("polydigits-quadrant", version=1)
class PolyDigitsQuadrant(Dataset):
    """Images of a digit in a quadrant of a photograph, the digit's name, the quadrant's name.

    23,000 tuples by default, made in half a minute; no download. Modalities: "m0" to "m2", images
    `[3, 32, 32]` in [0, 1]; "digit" and "place", a word each. All images of a tuple show
    the same digit, each from a different scan, in the same quadrant. So "digit" leaves the place
    open and "place" the digit. No classes: facts record both attributes, "digit" and "place", and
    that the first label names the digit only. Each place is as frequent as another for every digit.
    Digits and photographs are those of polydigits; train, validation and test share no source
    digit.
    """

    class Config(DataSettings):
        """Sizes, the balance of images and labels, and seed."""

        train: int = setting(
            20_000, "Training tuples.", "our choice: as polydigits", ge=100, le=1_000_000
        )
        validation: int = setting(
            1_000, "Validation tuples.", "our choice: as polydigits", ge=10, le=1_000_000
        )
        test: int = setting(2_000, "Test tuples.", "our choice: as polydigits", ge=10, le=1_000_000)
        images: int = setting(3, "Photographs used.", "our choice: cheap", ge=2, le=5)
        label_weight: float = setting(
            50.0,
            "Factor of each label's log-likelihood.",
            "our choice: a name is then worth what its digit is worth in an image",
            gt=0,
        )
        seed: int = setting(
            0, "Seed of digits' split, pairing, places, jitter and crops.", "our choice", ge=0
        )

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        weight = self.config.label_weight
        file = cache_file(self, paths.cache, exclude={"label_weight", "missing"})
        arrays, drawn = generate_once(file, self._generate)
        shape = 3, CANVAS, CANVAS
        images = (Modality(f"m{m}", "image", shape) for m in range(self.config.images))
        labels = (
            Modality(
                a.name,
                "text",
                (LENGTH,),
                "categorical",
                weight=weight,
                vocabulary=(*a.values, END),
            )
            for a in ATTRIBUTES
        )
        modalities = (*images, *labels)
        self.set_splits(
            make_splits(arrays, modalities, ("attributes", "named")),
            modalities=modalities,
            classes=0,
            fingerprint=digest_with(drawn, label_weight=weight),
            source="scikit-learn's digits in quadrants of photographs of scikit-learn and "
            "scikit-image, with the names of digit and quadrant",
            grammar=GRAMMAR,
        )

    def _generate(self) -> dict[str, Arrays]:
        digits, labels = read_digits()
        backgrounds = read_photographs()[: self.config.images]
        made = {}
        for stream, (split, part) in enumerate(part_digits(len(digits), self.config.seed).items()):
            rng = np.random.default_rng([self.config.seed, 1, stream])
            size = getattr(self.config, split)
            chosen, own = pair_evenly(part, labels, size, len(backgrounds), rng)
            places = spread(own, len(PLACES), rng)
            values = np.stack([own, places], axis=1)  # [N, 2]
            made[split] = {"attributes": values, "named": np.tile([True, False], (size, 1))}
            for m, background in enumerate(backgrounds):
                placed = place_digits(digits[chosen[m]], places, rng)
                made[split][f"m{m}"] = compose(placed, background, rng)
                made[split][f"{SOURCE}m{m}"] = chosen[m]
            for attribute, value in zip(ATTRIBUTES, values.T, strict=True):
                end = np.full_like(value, len(attribute.values))
                made[split][attribute.name] = np.stack([value, end], axis=1).astype(np.uint8)
        return made


def spread(classes: np.ndarray, values: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a value for each item, as evenly as possible within every class.

    Args:
        classes: `[N]`.
        values: How many values there are.
        rng: Chooses.

    Returns:
        int64 `[N]` in 0 .. values - 1.
    """
    drawn = np.empty(len(classes), np.int64)
    for c in np.unique(classes):
        members = np.flatnonzero(classes == c)
        drawn[members] = (rng.permutation(len(members)) + rng.integers(values)) % values
    return drawn
