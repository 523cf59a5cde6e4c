"""PolyDigits: PolyMNIST's recipe on pictures that installed libraries carry; no download."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch.nn import functional

from data.sources.composing import compose, describe_modalities, pair
from data.sources.files import digest_of, write_whole
from harness.api import (
    Dataset,
    DataSettings,
    DataSpec,
    Places,
    Split,
    register_dataset,
    setting,
)

SIDE = 28
_PHOTOGRAPHS = ("flower", "coffee", "astronaut", "hubble_deep_field", "retina")
_TEST_DIGITS = 360  # of the 1,797; a fifth, as in scikit-learn's own examples
_VALIDATION_DIGITS = 144  # a tenth of the rest


@register_dataset("polydigits", version=1)
class PolyDigits(Dataset):
    """Five photographs with the same handwritten digit in each, drawn by different hands.

    The sources are the 1,797 digits of scikit-learn (8x8, UCI, Alpaydin and Kaynak 1998),
    enlarged by cubic interpolation under a random affine map. Train, validation and test
    share no source digit.
    """

    class Config(DataSettings):
        """Sizes and seed."""

        train: int = setting(20_000, "Training tuples.", "our choice: 20 jitters a digit", ge=100)
        validation: int = setting(1_000, "Validation tuples.", "our choice", ge=10)
        test: int = setting(2_000, "Test tuples.", "our choice: a standard error of .011", ge=10)
        modalities: int = setting(5, "Photographs used.", "PolyMNIST", ge=2, le=5)
        seed: int = setting(0, "Seed of digits' split, pairing, jitter and crops.", "our choice")

    def prepare(self, places: Places, *, download: bool = False) -> None:
        key = hashlib.sha256(f"{self.version}{self.config.model_dump_json()}".encode()).hexdigest()
        file = places.cache / f"polydigits-{key[:16]}.npz"
        if not file.exists():
            arrays = self._generate()
            write_whole(file, lambda partial: np.savez(partial, **arrays))
        with np.load(file, allow_pickle=False) as arrays:
            self._splits = {
                split: Split(
                    {
                        f"m{m}": torch.from_numpy(arrays[f"{split}_m{m}"])
                        for m in range(self.config.modalities)
                    },
                    torch.from_numpy(arrays[f"{split}_labels"]),
                )
                for split in ("train", "validation", "test")
            }
            self._fingerprint = str(arrays["fingerprint"])

    @property
    def spec(self) -> DataSpec:
        return DataSpec(
            name=self.name,
            version=self.version,
            modalities=describe_modalities(self.config.modalities, SIDE),
            classes=10,
            sizes={name: len(split) for name, split in self._splits.items()},
            fingerprint=self._fingerprint,
            source="scikit-learn's digits composed on photographs of scikit-learn and scikit-image",
            twin="polymnist",
        )

    def split(self, name: str) -> Split:
        return self._splits[name]

    def _generate(self) -> dict[str, np.ndarray]:
        digits, labels = _digits()
        order = np.random.default_rng([self.config.seed, 0]).permutation(len(digits))
        test, validation = _TEST_DIGITS, _TEST_DIGITS + _VALIDATION_DIGITS
        parts = {
            "test": order[:test],
            "validation": order[test:validation],
            "train": order[validation:],
        }
        backgrounds = _photographs()[: self.config.modalities]
        arrays: dict[str, np.ndarray] = {}
        for stream, (split, part) in enumerate(parts.items(), start=1):
            rng = np.random.default_rng([self.config.seed, stream])
            size = getattr(self.config, split)
            pool = [_draw(part, labels[part], size, rng) for _ in backgrounds]
            chosen, arrays[f"{split}_labels"] = pair([labels[index] for index in pool], rng)
            for m, background in enumerate(backgrounds):
                written = _write(digits[pool[m][chosen[m]]], rng)
                arrays[f"{split}_m{m}"] = compose(written, background, rng)
        fingerprint = digest_of(arrays[name] for name in sorted(arrays))
        return arrays | {"fingerprint": np.array(fingerprint)}


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images / 16).astype(np.float32), loaded.target.astype(np.int64)  # [1797, 8, 8]


def _photographs() -> list[np.ndarray]:
    import skimage.data
    from sklearn.datasets import load_sample_image

    return [load_sample_image("flower.jpg")] + [
        getattr(skimage.data, n)() for n in _PHOTOGRAPHS[1:]
    ]


def _draw(part: np.ndarray, labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """`size` source digits, the classes as even as can be, each digit used equally often."""
    classes = np.unique(labels)
    counts = np.full(len(classes), size // len(classes))
    counts[: size % len(classes)] += 1
    drawn = []
    for c, count in zip(classes, counts, strict=True):
        members = part[labels == c]
        rounds = [rng.permutation(members) for _ in range(-(-count // len(members)))]
        drawn.append(np.concatenate(rounds)[:count])
    return np.concatenate(drawn)


def _write(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge digits `[N, 8, 8]` to uint8 `[N, 28, 28]` by bicubic interpolation, jittered.

    Each digit gets an affine map of its own: up to 15 degrees, a shear of a quarter, 10 % in either
    size, 2 pixels of shift.
    """
    n = len(digits)
    angle, shear = rng.uniform(-0.26, 0.26, n), rng.uniform(-0.25, 0.25, n)
    size, shift = rng.uniform(0.9, 1.12, (2, n)), rng.uniform(-2, 2, (2, n)) * 2 / SIDE
    cos, sin, one, zero = np.cos(angle), np.sin(angle), np.ones(n), np.zeros(n)
    turn = np.stack([cos, -sin, sin, cos], -1).reshape(n, 2, 2)
    lean = np.stack([one, shear, zero, one], -1).reshape(n, 2, 2)
    matrix = turn @ lean / size.T[:, :, None] * (SIDE / 22)  # 22 pixels high: MNIST's are 20
    where = np.concatenate([matrix, -matrix @ shift.T[:, :, None]], axis=2)  # [N, 2, 3]
    # In float64, so that no rounding of another machine moves a pixel over the threshold of
    # the ink.
    grid = functional.affine_grid(torch.from_numpy(where), [n, 1, SIDE, SIDE], align_corners=False)
    source = torch.from_numpy(digits)[:, None].double()
    drawn = functional.grid_sample(source, grid, mode="bicubic", align_corners=False)
    return (drawn[:, 0].clamp(0, 1) * 255).to(torch.uint8).numpy()
