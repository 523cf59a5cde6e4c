"""How alike two pictures are: PSNR and SSIM, as scikit-image defines them, for whole batches.

Also what is seen of a surface from another camera.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from harness.api import Camera

_WINDOW = 7
_C1, _C2 = 0.01**2, 0.03**2  # of the data range 1 (Wang et al. 2004)
LARGEST_PSNR = 100.0
"""dB; equal pictures would be infinite, which JSON does not hold."""


def psnr(made: Tensor, real: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB for a data range of 1, at most 100.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: The same shape.
        mask: `[..., H, W]` bool, the pixels that count; None for all.

    Returns:
        `[...]`; NaN where no pixel counts.
    """
    error = (made.double() - real.double()).square().mean(-3)
    if mask is None:
        mse = error.mean((-2, -1))
    else:
        mse = (error * mask).sum((-2, -1)) / mask.sum((-2, -1))
    return (-10 * mse.log10()).clamp(max=LARGEST_PSNR)


def ssim_map(made: Tensor, real: Tensor) -> Tensor:
    """Structural similarity at every pixel whose window is inside (Wang et al. 2004).

    As scikit-image's `structural_similarity(data_range=1, channel_axis=...)` without its Gaussian:
    a uniform window of 7 x 7 pixels, sample covariances, the mean over channels.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: The same shape.

    Returns:
        `[..., H - 6, W - 6]`; the entry (0, 0) is that of pixel (3, 3).
    """
    shape = made.shape
    x, y = (image.double().reshape(-1, 1, *shape[-2:]) for image in (made, real))
    means = functional.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y]), _WINDOW, 1).chunk(5)
    mean_x, mean_y, square_x, square_y, product = means
    unbiased = _WINDOW**2 / (_WINDOW**2 - 1)
    var_x = unbiased * (square_x - mean_x**2)
    var_y = unbiased * (square_y - mean_y**2)
    covariance = unbiased * (product - mean_x * mean_y)
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    bottom = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    found = top / bottom
    return found.view(*shape[:-2], *found.shape[-2:]).mean(-3)


def ssim(made: Tensor, real: Tensor, box: Tensor | None = None) -> Tensor:
    """The mean of `ssim_map`, `[...]`.

    Args:
        made: `[..., C, H, W]` in [0, 1].
        real: The same shape.
        box: `[..., H, W]` bool; its bounding box, widened to a window, is what counts, as if both
            pictures were cut to it. None for the whole.
    """
    found = ssim_map(made, real)
    if box is None:
        return found.mean((-2, -1))
    rows, columns = _inside(box.any(-1)), _inside(box.any(-2))
    counted = rows[..., :, None] & columns[..., None, :]
    return (found * counted).sum((-2, -1)) / counted.sum((-2, -1))


def _inside(used: Tensor) -> Tensor:
    """Windows `[..., n - 6]` along an axis that lie within the range of the used `[..., n]`."""
    n = used.shape[-1]
    place = torch.arange(n, device=used.device)
    first = torch.where(used, place, n - 1).amin(-1)
    last = torch.where(used, place, 0).amax(-1)
    first = torch.minimum(first, (last - _WINDOW + 1).clamp(min=0))
    last = torch.maximum(last, first + _WINDOW - 1).clamp(max=n - 1)
    first = torch.minimum(first, last - _WINDOW + 1)
    start = place[: n - _WINDOW + 1]
    return (start >= first[..., None]) & (start + _WINDOW - 1 <= last[..., None])


def seen_from(depth: Tensor, camera: Camera, other_depth: Tensor, other: Camera) -> Tensor:
    """Which pixels show a surface that another camera sees as well.

    A pixel's surface point is seen if the other view's depth where it lands is not smaller than its
    own by more than two of the other's pixels.

    Args:
        depth: `[B, R, R]` along the camera's axis; 0 where nothing is.
        camera: Of these pictures.
        other_depth: `[B, R, R]`, of the other's.
        other: The other camera.

    Returns:
        `[B, R, R]` bool; False where nothing is.
    """
    side = depth.shape[-1]
    z = depth.double()
    centre = (torch.arange(side, dtype=z.dtype, device=z.device) + 0.5) / side
    v, u = torch.meshgrid(centre, centre, indexing="ij")
    x = (u - camera.centre[0]) / camera.focal[0] * z
    y = (v - camera.centre[1]) / camera.focal[1] * z
    points = torch.stack([x, y, z], -1)  # [B, R, R, 3] before the camera
    turn, shift = (z.new_tensor(value) for value in (camera.rotation, camera.translation))
    world = (points - shift) @ turn  # rows of `turn` are the camera's axes
    turn, shift = (z.new_tensor(value) for value in (other.rotation, other.translation))
    there = world @ turn.T + shift
    ahead = there[..., 2].clamp(min=1e-6)
    across = other.focal[0] * there[..., 0] / ahead + other.centre[0]
    along = other.focal[1] * there[..., 1] / ahead + other.centre[1]
    column, row = ((place * side).floor().long() for place in (across, along))
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    place = row.clamp(0, side - 1) * side + column.clamp(0, side - 1)
    met = other_depth.double().flatten(1).gather(1, place.flatten(1)).view_as(z)
    pixel = ahead / (other.focal[0] * side)
    return (z > 0) & inside & (met > 0) & (ahead <= met + 2 * pixel)
