#!/usr/bin/env bash
# torchmetrics 1.9.0 averages MiFID's cosine distance over the real images: from each to the nearest
# generated one. The metric's competition (Bai et al. 2021, arXiv 2106.03062) averages over
# generated images: from each to the nearest training image. So a generator that only copies a few
# training images has no penalty, and one whose images are mostly new has a large one if it covers
# all of them. FID is symmetric, so exchanging the two values of `real` gives the published value.
# No upstream issue found. The project has no MiFID. FID, KID, precision and recall
# (docs/protocols.md) do not penalise copies, so users may add it in an evaluator of their own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1' 'torchmetrics==1.9.0'
"$work/venv/bin/python" - << 'END'
import torch
import torchmetrics
from torch.nn.functional import normalize
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

print("torch", torch.__version__, "torchmetrics", torchmetrics.__version__)


def mifid(real, made):
    metric = MemorizationInformedFrechetInceptionDistance(feature=torch.nn.Identity())
    metric.update(real, real=True)
    metric.update(made, real=False)
    return metric.compute().item()


generator = torch.Generator().manual_seed(0)
train = torch.rand(500, 16, dtype=torch.float64, generator=generator)
new = torch.rand(4500, 16, dtype=torch.float64, generator=generator)
noise = 0.01 * torch.rand(500, 16, dtype=torch.float64, generator=generator)
copied, mixed = train[:5].repeat(100, 1) + noise, torch.cat([train + noise, new])
ratios = []
for name, made in {"5 images, copied": copied, "90 % new": mixed}.items():
    distance = (1 - normalize(made) @ normalize(train).T).min(1).values.mean()
    value, exchanged = mifid(train, made), mifid(made, train)
    ratios.append(value / exchanged)
    print(f"{name}: distance to the nearest training image {distance:.1e}")
    print(f"  MiFID {value:.3g}, with the values of `real` exchanged {exchanged:.3g}")
assert ratios[0] < 0.01 and ratios[1] > 100, "The distance is now that of generated images."
END
