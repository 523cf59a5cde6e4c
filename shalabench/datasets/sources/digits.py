"""scikit-learn's digits, enlarged and jittered, and photographs from installed libraries."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from shalabench.api import DataError

SIDE = 28
CANVAS = 32  # pixels of a square of four quadrants
_PHOTOGRAPHS = ("coffee", "astronaut", "hubble_deep_field", "retina")
_MORE_PHOTOGRAPHS = ("chelsea", "rocket", "immunohistochemistry", "stereo_motorcycle")
_TEST_DIGITS = 360  # of the 1,797; a fifth, as in scikit-learn's own examples
_VALIDATION_DIGITS = 144  # a tenth of the rest


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 digits: float32 `[N, 8, 8]` in [0, 1], ink 1, and labels int64 `[N]`."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images / 16).astype(np.float32), loaded.target.astype(np.int64)  # [1797, 8, 8]


def part_digits(count: int, seed: int) -> dict[str, np.ndarray]:
    """Numbers of the source digits of "test", "validation" and "train", which share none."""
    order = np.random.default_rng([seed, 0]).permutation(count)
    test, validation = _TEST_DIGITS, _TEST_DIGITS + _VALIDATION_DIGITS
    return {"test": order[:test], "validation": order[test:validation], "train": order[validation:]}


def read_photographs(count: int = 5) -> list[np.ndarray]:
    """Up to ten photographs from scikit-learn and scikit-image, uint8 `[H, W, 3]`."""
    import skimage.data
    from sklearn.datasets import load_sample_image

    def read(name: str) -> np.ndarray:
        if name.endswith(".jpg"):
            return load_sample_image(name)
        found = getattr(skimage.data, name)()
        return found[0] if isinstance(found, tuple) else found  # the left one of a stereo pair

    names = ("flower.jpg", *_PHOTOGRAPHS, *_MORE_PHOTOGRAPHS, "china.jpg")
    return [read(name) for name in names[:count]]


def pair_evenly(
    part: np.ndarray, labels: np.ndarray, size: int, modalities: int, rng: np.random.Generator
) -> tuple[list[np.ndarray], np.ndarray]:
    """Choose the source digits of tuples: of one class, and different in all modalities.

    Each modality shows every source digit of a class equally often, give or take one tuple.

    Args:
        part: Numbers of the source digits of a split.
        labels: Of all source digits.
        size: N, the number of tuples; their classes are as even as possible.
        modalities: M, how many digits make a tuple.
        rng: Chooses.

    Returns:
        M index arrays `[N]` into the source digits, and the tuples' labels `[N]`.

    Raises:
        DataError: A class has fewer source digits than there are modalities.
    """
    classes = np.unique(labels)
    counts = np.full(len(classes), size // len(classes))
    counts[: size % len(classes)] += 1
    drawn = []
    for c, count in zip(classes, counts, strict=True):
        members = part[labels[part] == c]
        if len(members) < modalities:
            raise DataError(
                f"A split has {len(members)} scans of the digit {c}, and each tuple needs "
                f"{modalities} different ones. Choose another data.seed, or fewer modalities."
            )
        drawn.append(_draw_tuples(members, count, modalities, rng))
    order = rng.permutation(size)
    return list(np.concatenate(drawn)[order].T), np.repeat(classes, counts)[order]


def _draw_tuples(
    members: np.ndarray, count: int, modalities: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw tuples `[count, M]` of different members `[k]`, each used equally often.

    A round is k tuples: every modality reads one random circle of the members from a random start
    of its own. So it uses each once, and no two modalities meet at a member.
    """
    k = len(members)
    rounds = -(-count // k)
    circles = rng.permuted(np.tile(members, (rounds, 1)), axis=1)  # [R, k]
    starts = rng.permuted(np.tile(np.arange(k), (rounds, 1)), axis=1)[:, :modalities]  # [R, M]
    places = (np.arange(k)[:, None] + starts[:, None]) % k  # [R, k, M]
    tuples = np.take_along_axis(circles[..., None], places, axis=1)
    return tuples.reshape(-1, modalities)[:count]


def write_digits(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Enlarge digits `[N, 8, 8]` to uint8 `[N, 28, 28]` by bicubic interpolation, jittered.

    Each digit gets an affine map of its own: a turn of up to 15 degrees, a shear of up to a
    quarter, 0.9 to 1.12 times the width and the height, and a shift of up to 2 pixels.
    """
    return _write(digits, SIDE, *_jitter(len(digits), rng))


def place_digits(digits: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write digits `[N, 8, 8]` into quadrants of a canvas, jittered as `write_digits` does.

    Args:
        digits: `[N, 8, 8]` in [0, 1].
        places: `[N]`, the quadrants: 0 and 1 above, 2 and 3 below, the even ones on the left.
        rng: Chooses the jitter: half as many pixels of shift, since a quadrant is half as wide.

    Returns:
        uint8 `[N, 32, 32]`.
    """
    angle, shear, size, shift = _jitter(len(digits), rng)
    middle = (np.stack([places % 2, places // 2]) - 0.5) * CANVAS / 2  # [2, N]
    return _write(digits, CANVAS, angle, shear, size / 2, shift / 2 + middle)


def _jitter(n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Angles `[n]`, shears `[n]`, sizes `[2, n]` and shifts `[2, n]` for `draw_digits`."""
    angle, shear = rng.uniform(-0.26, 0.26, n), rng.uniform(-0.25, 0.25, n)
    size, shift = rng.uniform(0.9, 1.12, (2, n)), rng.uniform(-2, 2, (2, n))
    return angle, shear, size * 22 / SIDE, shift  # 22 pixels high: MNIST's are 20


def _write(digits: np.ndarray, side: int, *jitter: np.ndarray) -> np.ndarray:
    return (draw_digits(digits, side, *jitter) * 255).astype(np.uint8)


def draw_digits(
    digits: np.ndarray,
    side: int,
    angle: np.ndarray,
    shear: np.ndarray,
    size: np.ndarray,
    shift: np.ndarray,
) -> np.ndarray:
    """Draw each digit into a square under an affine map of its own, by bicubic interpolation.

    Args:
        digits: `[N, 8, 8]` in [0, 1].
        side: S, of the squares, in pixels.
        angle: `[N]`, in radians.
        shear: `[N]`, horizontal shift for a step down.
        size: `[2, N]`, width and height as parts of the side.
        shift: `[2, N]`, of the middle to the right and down, in pixels.

    Returns:
        float64 `[N, S, S]` in [0, 1]; in float64 so that no rounding of another machine moves a
        pixel over the threshold of an ink.
    """
    n, shift = len(digits), shift * 2 / side
    cos, sin, one, zero = np.cos(angle), np.sin(angle), np.ones(n), np.zeros(n)
    turn = np.stack([cos, -sin, sin, cos], -1).reshape(n, 2, 2)
    lean = np.stack([one, shear, zero, one], -1).reshape(n, 2, 2)
    matrix = turn @ lean / size.T[:, :, None]
    where = np.concatenate([matrix, -matrix @ shift.T[:, :, None]], axis=2)  # [N, 2, 3]
    grid = functional.affine_grid(torch.from_numpy(where), [n, 1, side, side], align_corners=False)
    source = torch.from_numpy(digits)[:, None].double()
    drawn = functional.grid_sample(source, grid, mode="bicubic", align_corners=False)
    return drawn[:, 0].clamp(0, 1).numpy()
