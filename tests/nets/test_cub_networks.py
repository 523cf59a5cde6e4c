"""CUB's networks have the published layers, counted by hand, and serve any method with a text."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shalabench.api import DataError, Modality
from shalabench.nets.backbones import Network, decoder, encoder

pytestmark = pytest.mark.float64

NETWORK = Network(family="cub")
WORDS = tuple(map(str, range(1590)))
PHOTO = Modality("image", "image", (3, 64, 64), "laplace", 0.01)
CAPTION = Modality("caption", "text", (32,), "categorical", vocabulary=WORDS)
SHORT = Modality("c", "text", (16,), "categorical", vocabulary=tuple("abc"))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def layer(inputs: int, outputs: int, kernel: int) -> int:
    """Weights of a convolution with so many taps, its bias, and its batch norm's two."""
    return inputs * outputs * kernel + 3 * outputs


# 1 x 32 x 128 halved to 128 x 4 x 16, then to 512 x 4 x 4; the decoder's two
# stems back to 128 x 4 x 16 each; the 3 x 3 convolutions are in the code alone.
EMBEDDING = 1590 * 128 + 128
PRIVATE = layer(1, 32, 16) + layer(32, 64, 16) + layer(64, 128, 16)
SHARED = PRIVATE + layer(128, 256, 4) + layer(256, 512, 4)
STEM = layer(512, 256, 4) + layer(256, 128, 4)
WIDENING = layer(128, 64, 16) + layer(64, 32, 16) + 32 * 16 + 1
LOGITS = 128 * 1590 + 1590


@pytest.mark.parametrize(("private", "layers"), [(True, PRIVATE), (False, SHARED)])
def test_caption_encoders_have_the_published_layers(private, layers):
    trunk = encoder(CAPTION, NETWORK, private=private)
    assert trunk.features == 8192  # 128 x 4 x 16 and 512 x 4 x 4
    assert count(trunk) == EMBEDDING + layers


def test_a_caption_decoder_has_the_published_stem_for_each_latent():
    stems = layer(16, 512, 16) + layer(48, 512, 16) + 2 * STEM + layer(256, 256, 9)
    found = decoder(CAPTION, 16 + 48, NETWORK, private=16)
    assert count(found) == stems + layer(256, 128, 9) + WIDENING + LOGITS
    stem = layer(64, 512, 16) + STEM + layer(256, 256, 9)
    assert count(decoder(CAPTION, 64, NETWORK)) == stem + layer(128, 128, 9) + WIDENING + LOGITS


def test_a_caption_is_embedded_as_the_published_one_hot_tokens_are():
    trunk = encoder(SHORT, NETWORK).eval()
    x = torch.randint(3, (2, 16))
    tokens = trunk.embedding(nn.functional.one_hot(x, 3).to(trunk.embedding.weight.dtype))
    torch.testing.assert_close(trunk(x), trunk.layers(tokens[:, None]))


def test_photos_have_mmvae_plus_s_networks():
    plain = Network(family="resnet")
    assert count(encoder(PHOTO, NETWORK)) == count(encoder(PHOTO, plain))
    assert count(decoder(PHOTO, 64, NETWORK)) == count(decoder(PHOTO, 64, plain))


@pytest.mark.parametrize("modality", [CAPTION, SHORT])
@pytest.mark.parametrize("private", [0, 2])
def test_captions_of_any_multiple_of_eight_are_encoded_and_decoded(modality, private):
    network = Network(family="cub", width=0.1)
    trunk = encoder(modality, network, private=bool(private))
    x = torch.randint(3, (2, *modality.shape))
    assert trunk(x).shape == (2, trunk.features)
    logits = decoder(modality, 5, network, private=private)(torch.randn(2, 5))
    assert logits.shape == (2, *modality.shape, len(modality.vocabulary))


@pytest.mark.parametrize("build", [encoder, lambda m, network: decoder(m, 5, network)])
@pytest.mark.parametrize("length", [4, 30])
def test_a_text_that_does_not_fit_is_told(build, length):
    modality = Modality("c", "text", (length,), "categorical", vocabulary=tuple("abc"))
    with pytest.raises(DataError, match=rf"'c' has {length} tokens.*multiple of 8.*resnet"):
        build(modality, NETWORK)


def test_every_latent_moves_the_logits_and_every_token_the_features():
    network = Network(family="cub", width=0.1)
    decode = decoder(SHORT, 5, network, private=2)
    z = torch.randn(3, 5, requires_grad=True)
    assert (torch.autograd.grad(decode(z).square().sum(), z)[0] != 0).any(0).all()
    trunk = encoder(SHORT, network).eval()
    x = torch.zeros(16, 16, dtype=torch.long) + torch.eye(16, dtype=torch.long)
    assert (trunk(x) != trunk(torch.zeros_like(x))).any(1).all()
