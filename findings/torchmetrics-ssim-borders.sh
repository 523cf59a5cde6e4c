#!/usr/bin/env bash
# torchmetrics 1.9.0 pads pictures by reflection and averages SSIM over all windows, also those that
# reach over the border. Wang et al. 2004, scikit-image and torchmetrics until 1.4.1 average over
# the windows within the picture. In a picture of 32 pixels, half of all windows reach over the
# border. If it is white there, as around a car, SSIM rises: here, its distance to 1 is halved.
# The documentation does not say it. Upstream: github.com/Lightning-AI/torchmetrics/pull/2721
# (1.4.2).
# ssim/... of this project uses the windows within the picture and is tested against scikit-image
# (shalabench/metrics/images.py). SyncDreamer's script of 2023 calls torchmetrics of any version
# (docs/reproduction/metrics.md), so its values depend on the version that is installed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1' 'torchmetrics==1.9.0' 'scikit-image==0.26.0'
"$work/venv/bin/python" - << 'END'
import skimage
import torch
import torchmetrics
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

print("torch", torch.__version__, "torchmetrics", torchmetrics.__version__)
print("scikit-image", skimage.__version__)
generator = torch.Generator().manual_seed(0)
real = torch.ones(1, 3, 32, 32, dtype=torch.float64)
real[..., 8:24, 8:24] = torch.rand(3, 16, 16, dtype=torch.float64, generator=generator)
made = real.clone()
made[..., 8:24, 8:24] += 0.1 * torch.randn(3, 16, 16, dtype=torch.float64, generator=generator)
made = made.clamp(0, 1)

value, every = structural_similarity_index_measure(
    made, real, data_range=1.0, return_full_image=True
)
inner = every[..., 5:-5, 5:-5].mean().item()  # the Gaussian window has 11 pixels
expected = structural_similarity(
    made[0].numpy(), real[0].numpy(), channel_axis=0, data_range=1.0,
    gaussian_weights=True, use_sample_covariance=False,
)  # fmt: skip
print(f"torchmetrics {value:.4f}, its windows within {inner:.4f}, scikit-image {expected:.4f}")
assert abs(inner - expected) < 1e-6, "The two no longer agree within the picture."
assert value - expected > 0.01, "The mean is now over windows within the picture."
END
