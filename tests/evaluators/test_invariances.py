"""What must not change a result."""

from __future__ import annotations

import pytest
import torch
from helpers.toys import build
from torch import nn

from shalabench.api import DataSpec, Modality, Rng, Split
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.nets.backbones import Network, decode_each, decoder, encoder, initialise

SIZES = [(3, 8, 8), (3, 28, 28), (1, 5, 5), (3, 32, 32)]


@pytest.mark.parametrize("family", ["conv", "resnet"])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("initialisation", ["torch", "kaiming", "white"])
def test_networks_fit_any_square_image(family, shape, initialisation):
    modality = Modality("x", "image", shape)
    network = Network(family=family, width=0.1, hidden=9, initialisation=initialisation)
    encode, decode = encoder(modality, network), decoder(modality, 6, network)
    initialise(encode, network)
    initialise(decode, network)
    assert encode(torch.rand(2, *shape)).shape == (2, encode.features)
    made = decode(torch.randn(2, 6))
    assert made.shape == (2, *shape)
    assert torch.isfinite(made).all()


@pytest.mark.parametrize("length", [2, 4, 8, 32])
def test_text_networks_fit_any_length(length):
    modality = Modality("x", "text", (length,), "categorical", vocabulary=tuple("abc"))
    encode, decode = encoder(modality, Network()), decoder(modality, 5, Network())
    assert encode(torch.zeros(2, length, dtype=torch.long)).shape == (2, encode.features)
    assert decode(torch.randn(2, 5)).shape == (2, length, 3)


def test_published_networks_have_their_published_size():
    """Counted from reproduction/polymnist.md by hand, for 3x28x28."""
    modality = Modality("x", "image", (3, 28, 28))
    conv = encoder(modality, Network(family="conv"))
    convolutions = 3 * 32 * 9 + 32 + 32 * 64 * 9 + 64 + 64 * 128 * 9 + 128
    assert sum(p.numel() for p in conv.parameters()) == convolutions + 2048 * 512 + 512
    resnet = encoder(modality, Network(family="resnet"))
    blocks = 3 * 64 * 9 + 64
    for a, b in ((64, 64), (64, 128), (128, 256)):
        hidden = min(a, b)
        blocks += a * hidden * 9 + hidden + hidden * b * 9 + b + (a * b if a != b else 0)
    assert sum(p.numel() for p in resnet.parameters()) == blocks
    assert resnet.features == 256 * 49


def test_kaiming_start_keeps_the_variance_through_the_decoder():
    network = Network(family="conv", initialisation="kaiming")
    decode = decoder(Modality("x", "image", (3, 28, 28)), 64, network)
    initialise(decode, network)
    spread = decode(torch.randn(200, 64)).std().item()
    assert 0.5 < spread < 2.5


@torch.no_grad()
@pytest.mark.parametrize("family", ["conv", "resnet"])
def test_white_start_reads_white_as_nothing_and_paints_near_white(family):
    modality = Modality("x", "image", (3, 32, 32))
    network = Network(family=family, initialisation="white", activation="silu")
    means = []
    for seed in range(10):  # one start's mean strays by about 0.05, so ten are averaged
        torch.manual_seed(seed)
        encode, decode = encoder(modality, network), decoder(modality, 64, network)
        initialise(nn.ModuleList([encode, decode]), network)
        seen = encode.layers[0](torch.ones(1, 3, 32, 32))[..., 1:-1, 1:-1]  # zeros pad the border
        assert seen.abs().max() < 1e-5
        painted = decode(torch.randn(50, 64))
        assert painted.std() < 0.5
        means.append(painted.mean())
    assert abs(torch.stack(means).mean() - 1) < 0.1


def test_decoding_many_in_one_call_equals_one_by_one():
    net = decoder(Modality("x", "image", (3, 8, 8)), 4, Network(family="conv", width=0.1))
    z = torch.randn(3, 2, 5, 4)
    together = decode_each([net], [z])[0]
    for a in range(3):
        for b in range(2):
            torch.testing.assert_close(together[a, b], net(z[a, b]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["shala", "mmvae+", "cmvae"])
def test_memory_order_changes_no_sample(name, toy):
    plain = build(name, toy).eval()
    ordered = build(name, toy).to(memory_format=torch.channels_last).eval()
    a, b = plain.sample(4, Rng(0)), ordered.sample(4, Rng(0))
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cmvae", "mmvae+", "shala", "mopoe"])
def test_batch_norm_leaves_an_item_s_views_to_itself(name):
    """CUB's networks in every kind of method, both ways, after two updates."""
    words = Modality("word", "text", (16,), "categorical", vocabulary=tuple("abc"))
    spec = DataSpec("d", 1, (Modality("bar", "image", (3, 8, 8)), words), 0, {}, "", "")
    config = resolve(name, "toy", "smoke", ("model.network.family=cub",)).model
    model = find("model", name).cls(spec, config)
    bars = torch.randint(256, (8, 3, 8, 8), dtype=torch.uint8)
    batch = Split({"bar": bars, "word": torch.randint(3, (8, 16))}).batch(torch.arange(8))
    stage, views = model.stages()[0], batch.views
    for step in range(2):
        stage.update(batch, Rng(step))
    model.eval()
    for given, target in (("bar", "word"), ("word", "bar")):
        whole = model.translate({given: views[given]}, [target], Rng(0))[target]
        part = model.translate({given: views[given][:3]}, [target], Rng(0))[target]
        assert whole.shape == views[target].shape
        torch.testing.assert_close(whole[:3], part, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_order_in_which_modalities_are_given_changes_nothing(toy):
    model = build("shala", toy).eval()
    x = toy.split("test").batch(torch.arange(3)).views
    one = model.translate({"bar": x["bar"], "word": x["word"]}, ["stripe"], Rng(0))
    other = model.translate({"word": x["word"], "bar": x["bar"]}, ["stripe"], Rng(0))
    torch.testing.assert_close(one["stripe"], other["stripe"], rtol=1e-4, atol=1e-5)


def test_a_spec_names_its_modalities_and_an_unknown_one():
    spec = DataSpec("d", 1, (Modality("a", "image", (1, 2, 2)),), 0, {}, "", "")
    assert spec["a"].shape == (1, 2, 2)
    with pytest.raises(KeyError, match=r"no modality 'b'.*: a"):
        spec["b"]
