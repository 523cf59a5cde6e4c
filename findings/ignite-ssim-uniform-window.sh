#!/usr/bin/env bash
# pytorch-ignite 0.5.5: SSIM with gaussian=False ignores kernel_size. Its uniform window has five pixels a
# side whatever size is asked for, so sizes 5, 7, 9 and 11 give the same value. With size 3, each of the
# three weights is still 1/5: they sum to 0.36 over the window, the local means are too small, and the
# local variances depend on brightness. There is no warning, and the documentation promises a uniform
# kernel of the given size. gaussian=True is not affected. No upstream issue found.
# ssim/... of this project has uniform windows of 7 x 7, as scikit-image's default (docs/protocols.md,
# shalabench/metrics/images.py). SSIM(1.0, kernel_size=7, gaussian=False) looks like this metric, but has
# windows of 5 x 5, and its values are lower here. They must not stand beside those of ssim/... .
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.13.0' 'pytorch-ignite==0.5.5' 'scikit-image==0.26.0'
"$work/venv/bin/python" - << 'END'
import ignite
import skimage
import torch
from ignite.metrics import SSIM
from skimage.metrics import structural_similarity

print("pytorch-ignite", ignite.__version__, "scikit-image", skimage.__version__, end=" ")
print("torch", torch.__version__)
generator = torch.Generator().manual_seed(0)
real = torch.ones(1, 3, 64, 64, dtype=torch.float64)  # a wide white border: padding does not matter
noise = torch.rand(2, 3, 40, 40, dtype=torch.float64, generator=generator)
real[..., 12:52, 12:52] = torch.nn.functional.avg_pool2d(noise[:1], 3, 1, 1)
made = real.clone()
made[..., 12:52, 12:52] += 0.1 * (noise[1:] - 0.5)


def values(size, gaussian):
    """Of ignite, and the mean over all windows of that size by scikit-image."""
    metric = SSIM(1.0, kernel_size=size, gaussian=gaussian)
    metric.update((made, real))
    weights = {"gaussian_weights": True, "sigma": 1.5} if gaussian else {"win_size": size}
    _, every = structural_similarity(
        made[0].numpy(), real[0].numpy(), channel_axis=0, data_range=1.0, full=True,
        use_sample_covariance=False, **weights,
    )  # fmt: skip
    return metric.compute(), every.mean().item()


found = {size: values(size, gaussian=False) for size in (3, 5, 7, 9, 11)}
for size, (value, expected) in found.items():
    print(f"uniform, {size:2} x {size:2}: ignite {value:.4f}, scikit-image {expected:.4f}")
value, expected = values(11, gaussian=True)
print(f"Gaussian, 11 x 11: ignite {value:.4f}, scikit-image {expected:.4f}")
assert abs(value - expected) < 1e-6, "The two no longer agree for Gaussian windows."
assert abs(found[5][0] - found[5][1]) < 1e-6, "The two no longer agree for five pixels."
for size in (7, 9, 11):
    assert found[size][0] == found[5][0], "The window now has the size that is asked for."
    assert found[size][1] - found[size][0] > 0.002, "The size no longer matters."
assert abs(found[3][0] - found[3][1]) > 0.01, "A window of three pixels is right now."
END
