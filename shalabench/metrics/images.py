"""Image metrics: PSNR, SSIM, silhouettes and colours.

Every function returns one value a picture. The caller averages over views, then objects.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from shalabench.api import BenchError

LARGEST_PSNR = 100.0  # dB; exact copies would be infinite, which JSON does not hold
WINDOW = 7  # pixels, the side of the SSIM window, as scikit-image's default
_C1, _C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for data in [0, 1]
_NOT_WHITE = 0.05  # reproduction/style-transfer.md
_XYZ = (  # IEC 61966-2-1, as scikit-image has it
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65 = (0.95047, 1.0, 1.08883)


def quantise(x: Tensor, name: str = "a picture") -> Tensor:
    """Pictures as an image file would hold them: clipped, rounded to 255ths; float64.

    Raises:
        BenchError: A value is not finite.
    """
    if not torch.isfinite(x).all():
        raise BenchError(f"The model generated values of {name} that are not finite.")
    return (x.double().clamp(0, 1) * 255).round() / 255


def psnr(made: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of each picture, at most 100.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: Of the same shape.
        mask: `[..., H, W]` bool, the pixels that count; all where None.

    Returns:
        `[...]`, 10 log10(1 / MSE); NaN where the mask is empty.
    """
    error = (made - real).square().mean(-3)  # [..., H, W]
    weight = torch.ones_like(error) if mask is None else mask.to(error.dtype)
    mse = (error * weight).sum((-2, -1)) / weight.sum((-2, -1))
    return (-10 * mse.log10()).clamp(max=LARGEST_PSNR)


def ssim_map(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) in every window within the picture.

    As scikit-image's `structural_similarity(data_range=1.0)`: uniform 7 x 7 windows, sample
    covariance, mean over channels.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: Of the same shape.

    Returns:
        `[..., H - 6, W - 6]`.

    Raises:
        BenchError: The pictures are smaller than the window.
    """
    if min(made.shape[-2:]) < WINDOW:
        raise BenchError(
            f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels; these have "
            f"{made.shape[-2]} x {made.shape[-1]}. Choose a larger resolution."
        )
    parts = torch.stack([made, real, made * made, real * real, made * real])
    means = functional.avg_pool2d(parts.flatten(0, -3), (WINDOW, 1), 1)
    means = functional.avg_pool2d(means, (1, WINDOW), 1)
    x, y, xx, yy, xy = means.view(*parts.shape[:-2], *means.shape[-2:])
    sample = WINDOW**2 / (WINDOW**2 - 1)
    vx, vy, cov = sample * (xx - x * x), sample * (yy - y * y), sample * (xy - x * y)
    similarity = (2 * x * y + _C1) * (2 * cov + _C2) / ((x * x + y * y + _C1) * (vx + vy + _C2))
    return similarity.mean(-3)


def ssim(made: Tensor, real: Tensor) -> Tensor:
    """Mean structural similarity `[...]` of pictures `[..., C, H, W]` in [0, 1]."""
    return ssim_map(made, real).mean((-2, -1))


def boxed_ssim(made: Tensor, real: Tensor, mask: Tensor) -> Tensor:
    """Mean structural similarity within the box that encloses a mask.

    A box smaller than the window is widened to it, towards the lower right where there is room.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: Of the same shape.
        mask: `[..., H, W]` bool.

    Returns:
        `[...]`; NaN where the mask is empty.
    """
    similarity = ssim_map(made, real)
    rows = _windows(mask.any(-1))  # [..., H - 6]
    columns = _windows(mask.any(-2))
    inside = (rows[..., :, None] & columns[..., None, :]).to(similarity.dtype)
    inside = torch.where(mask.any(-1).any(-1)[..., None, None], inside, 0.0)
    return (similarity * inside).sum((-2, -1)) / inside.sum((-2, -1))


def _windows(lit: Tensor) -> Tensor:
    """Which windows along a line `[..., L]` lie between its first and its last lit pixel."""
    index = torch.arange(lit.shape[-1], device=lit.device)
    last = torch.where(lit, index, 0).amax(-1, keepdim=True) - (WINDOW - 1)
    first = torch.where(lit, index, lit.shape[-1]).amin(-1, keepdim=True)
    first = first.clamp(max=lit.shape[-1] - WINDOW)
    starts = index[: lit.shape[-1] - WINDOW + 1]
    return (starts >= first) & (starts <= torch.maximum(first, last))


def foreground(x: Tensor) -> Tensor:
    """Which pixels `[..., H, W]` of pictures `[..., C, H, W]` are not white.

    They differ from it by over .05 in a channel.
    """
    return (x < 1 - _NOT_WHITE).any(-3)


def silhouette(x: Tensor) -> Tensor:
    """The foreground `[B, V, H, W]` of pictures `[B, V, C, H, W]` without small holes.

    Holes and cracks of up to two pixels are filled.
    """
    grown = functional.max_pool2d(foreground(x).float(), 3, 1, 1)
    return -functional.max_pool2d(-grown, 3, 1, 1) > 0.5


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union `[...]` of masks `[..., H, W]`; 1 where both are empty."""
    both, either = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0).double()


def lab(pixels: Tensor) -> Tensor:
    """CIELAB `[P, 3]` of sRGB pixels `[P, 3]` in [0, 1], white D65, 2 degrees (CIE 15)."""
    linear = torch.where(pixels > 0.04045, ((pixels + 0.055) / 1.055) ** 2.4, pixels / 12.92)
    xyz = linear @ pixels.new_tensor(_XYZ).T / pixels.new_tensor(_D65)
    f = torch.where(
        xyz > (6 / 29) ** 3, xyz.clamp(min=0) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29
    )
    x, y, z = f.T
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)
