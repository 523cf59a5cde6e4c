"""Networks fit their images, and those of the published sizes are as published."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from shalabench.api import Modality
from shalabench.nets.backbones import Network, decoder, encoder, initialise

pytestmark = pytest.mark.float64


@pytest.mark.parametrize("family", ["conv", "resnet"])
@pytest.mark.parametrize("side", [8, 28, 32, 33, 64])
def test_images_of_any_side_are_encoded_and_decoded(family, side):
    image, network = Modality("x", "image", (3, side, side)), Network(family=family, width=0.25)
    coder = encoder(image, network)
    x = torch.rand(2, 3, side, side)
    assert coder(x).shape == (2, coder.features)
    assert decoder(image, 5, network)(torch.rand(2, 5)).shape == x.shape


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def test_networks_for_28_pixels_have_the_published_layers():
    image = Modality("x", "image", (3, 28, 28))
    channels = [m.out_channels for m in encoder(image, Network(family="conv")).layers[::2][:3]]
    assert channels == [32, 64, 128]
    assert encoder(image, Network(family="resnet")).features == 256 * 7 * 7


def test_networks_for_64_pixels_go_down_to_cub_s_published_sides():
    image = Modality("x", "image", (3, 64, 64))
    assert encoder(image, Network(family="resnet")).features == 256 * 2 * 2  # MMVAE+: s0 = 2
    linear = encoder(image, Network(family="conv")).layers[-2]
    assert linear.in_features == 256 * 4 * 4  # MMVAE: four halvings


def test_captions_of_32_tokens_are_encoded_and_decoded():
    words = tuple(f"w{i}" for i in range(50))
    caption = Modality("c", "text", (32,), "categorical", vocabulary=words)
    coder = encoder(caption, Network())
    assert coder(torch.zeros(2, 32, dtype=torch.long)).shape == (2, coder.features)
    assert decoder(caption, 5, Network())(torch.rand(2, 5)).shape == (2, 32, 50)


@pytest.mark.parametrize("family", ["conv", "resnet"])
@pytest.mark.parametrize("side", [16, 32, 64, 128, 256])
def test_pictures_of_cars_are_encoded_and_decoded_at_every_resolution(family, side):
    modality = Modality("v00", "image", (3, side, side))
    network = Network(family=family, width=0.125, hidden=16)
    net = encoder(modality, network)
    assert net(torch.zeros(2, *modality.shape)).shape == (2, net.features)
    assert decoder(modality, 4, network)(torch.zeros(2, 4)).shape == (2, *modality.shape)


@pytest.mark.parametrize("side", [64, 128, 256])
def test_large_pictures_reach_the_linear_layers_of_conv_as_four_by_four_places(side):
    net = decoder(Modality("v00", "image", (3, side, side)), 4, Network(family="conv", width=0.125))
    assert net.layers[0].out_features == 32 * 4 * 4


@pytest.mark.parametrize("family", ["conv", "resnet"])
@pytest.mark.parametrize("initialisation", ["torch", "kaiming", "white"])
def test_a_coarse_picture_begins_at_nothing_and_adds_its_enlargement(family, initialisation):
    network = Network(family=family, width=0.1, coarse=5, initialisation=initialisation)
    net = decoder(Modality("x", "image", (3, 33, 33)), 4, network)
    initialise(net, network)
    z = torch.randn(2, 4)
    assert torch.equal(net(z), net.fine(z))
    nn.init.normal_(net.coarse[0].weight)
    enlarged = functional.interpolate(net.coarse(z), 33, mode="bilinear", align_corners=False)
    assert torch.allclose(net(z) - net.fine(z), enlarged, atol=1e-5)
