#!/usr/bin/env bash
# torch-fidelity 0.4.0 keeps the statistics of a reference set under the name that the caller gives,
# the extractor's name and the layer. The key has neither the extractor's weights nor the images, so
# other weights or other images with an old name are compared with the old statistics, silently.
# The project therefore calls only the functions on features (shalabench/metrics/fid.py) and keeps
# features under digests of weights and data (shalabench/metrics/features.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'torch==2.14.1' 'torchvision==0.29.1' 'torch-fidelity==0.4.0'
"$work/venv/bin/python" - "$work" << 'END'
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase

work = Path(sys.argv[1])
print("torch", torch.__version__, "torch-fidelity", version("torch-fidelity"))


class FirstPixels(FeatureExtractorBase):
    """Eight pixels times a scale, which is its only weight."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **options):
        super().__init__(name, features_list)
        self.scale = float(Path(feature_extractor_weights_path).read_text())

    @staticmethod
    def get_provided_features_list():
        return ("8",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "8"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        return (images.float().flatten(1)[:, :8] * self.scale,)


class Images(torch.utils.data.Dataset):
    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, item):
        return self.images[item]


def fid(generated, real, scale, name):
    weights = work / "weights"
    weights.write_text(str(scale))
    return calculate_metrics(
        input1=generated,
        input2=real,
        input2_cache_name=name,
        cache_root=str(work / "cache"),
        fid=True,
        cuda=False,
        verbose=False,
        feature_extractor="first-pixels",
        feature_extractor_weights_path=str(weights),
    )["frechet_inception_distance"]


register_feature_extractor("first-pixels", FirstPixels)
generated, real, other = Images(0), Images(1), Images(2)
first = fid(generated, real, 1, "real")
old_weights, new_weights = fid(generated, real, 2, "real"), fid(generated, real, 2, "real-2")
old_images, new_images = fid(generated, other, 1, "real"), fid(generated, other, 1, "other")
print(f"weights 1: FID {first:.1f}")
print(f"weights 2: FID {old_weights:.1f} under the old name, {new_weights:.1f} under a new name")
print(f"other images: FID {old_images:.1f} under the old name, {new_images:.1f} under a new name")
assert old_weights != new_weights, "Statistics of other weights are no longer reused."
assert old_images == first != new_images, "Statistics of other images are no longer reused."
END
