"""Networks of vectors, of pictures that are not square, and of one's own."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Laplace, Normal

from shalabench.api import BenchError, DataError, Modality
from shalabench.api.registry import find_factory
from shalabench.nets.backbones import Network, decoder, encoder, initialise
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.stacked import apply_each

REFERENCES = {
    "laplace": lambda o: Laplace(o, 0.3),
    "normal": lambda o: Normal(o, 0.3),
    "bernoulli": lambda o: Bernoulli(logits=o),
}
VECTORS = [(1,), (7,), (2, 3), (1, 2, 4), (2, 1, 3, 2)]


@pytest.mark.float64
@pytest.mark.parametrize("shape", VECTORS)
@pytest.mark.parametrize("name", REFERENCES)
def test_likelihoods_of_vectors_equal_the_reference(name, shape):
    modality = Modality("x", "vector", shape, name, 0.3)
    output = torch.randn(5, 4, *shape)
    target = torch.randn(4, *shape) * 3
    target = (target > 0).double() if name == "bernoulli" else target
    ours = log_likelihood(modality, output, target)
    expected = REFERENCES[name](output).log_prob(target).flatten(2).sum(-1)
    assert ours.shape == (5, 4)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)
    mean = REFERENCES[name](output).mean
    torch.testing.assert_close(view_of(modality, output), mean)


@pytest.mark.parametrize("family", ["conv", "resnet", "mst", "cub"])
@pytest.mark.parametrize("shape", VECTORS)
def test_vectors_are_encoded_and_decoded_by_every_family(family, shape):
    vector, network = Modality("x", "vector", shape, "normal"), Network(family=family, width=0.1)
    coder = encoder(vector, network)
    x = torch.randn(3, *shape)
    assert coder(x).shape == (3, coder.features) == (3, 40)
    assert decoder(vector, 5, network)(torch.randn(3, 5)).shape == x.shape


@pytest.mark.parametrize("shape", VECTORS)
def test_vectors_encoded_together_are_those_of_single_calls(shape):
    torch.manual_seed(0)
    vector, network = Modality("x", "vector", shape, "normal"), Network(width=0.1)
    coders = [encoder(vector, network) for _ in range(3)]
    decoders = [decoder(vector, 5, network) for _ in range(3)]
    x, z = torch.randn(3, 4, *shape), torch.randn(3, 4, 5)
    for networks, inputs in ((coders, x), (decoders, z)):
        made = apply_each(networks, list(inputs))
        for own, one, given in zip(made, networks, inputs, strict=True):
            torch.testing.assert_close(own, one(given))


@pytest.mark.parametrize(
    ("family", "least"), [("conv", (1, 1)), ("resnet", (1, 1)), ("mst", (8, 8))]
)
@pytest.mark.parametrize("sides", [(9, 14), (14, 9), (1, 20), (40, 33), (64, 8)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_sides_are_encoded_and_decoded(family, least, sides, channels):
    if min(sides) < min(least) and channels == 3:
        with pytest.raises(DataError, match="at least 8 x 8"):
            encoder(Modality("x", "image", (channels, *sides)), Network(family=family))
        return
    image = Modality("x", "image", (channels, *sides))
    network = Network(family=family, width=0.1, hidden=16, initialisation="kaiming", coarse=3)
    coder, made = encoder(image, network), decoder(image, 5, network)
    initialise(nn.ModuleList([coder, made]), network)
    x = torch.rand(2, channels, *sides)
    assert coder(x).shape == (2, coder.features)
    assert made(torch.rand(2, 5)).shape == x.shape


def test_pictures_that_are_not_square_are_decoded_together_as_one_by_one():
    torch.manual_seed(0)
    image = Modality("x", "image", (3, 9, 14))
    network = Network(family="conv", width=0.1, hidden=16, coarse=3)
    networks = [decoder(image, 5, network) for _ in range(2)]
    for each in networks:
        nn.init.normal_(each.coarse[0].weight)
    z = torch.randn(2, 4, 5)
    for own, one, given in zip(apply_each(networks, list(z)), networks, z, strict=True):
        torch.testing.assert_close(own, one(given), rtol=1e-4, atol=1e-5)


class Batched:
    """Networks with batch norm, for a vector of four numbers."""

    def __init__(self, modality):
        self.modality = modality

    def encoder(self):
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))

    def decoder(self, inputs):
        return nn.Linear(inputs, 4)


def test_a_trial_call_changes_nothing_of_networks_of_one_s_own():
    network = Network(custom={"x": f"{__name__}:Batched"})
    coder = encoder(Modality("x", "vector", (4,), "normal"), network)
    assert coder.features == 6
    assert coder.training
    assert coder.network[1].num_batches_tracked == 0
    other = encoder(Modality("y", "vector", (4,), "normal"), network)
    assert type(other).__name__ == "VectorEncoder"


def test_networks_of_one_s_own_are_settings_only_where_there_are_any():
    assert "custom" not in Network().model_dump()
    own = Network(custom={"x": "a.b:C"})
    assert own.model_dump()["custom"] == {"x": "a.b:C"}
    assert Network.model_validate(own.model_dump()) == own


@pytest.mark.parametrize("reference", ["a", "a:", ":b", "a.b", "a b:c", "os:getcwd()"])
def test_a_reference_that_is_none_is_told(reference):
    with pytest.raises(BenchError, match=r"package\.module:factory"):
        find_factory(reference)


def test_a_factory_may_be_anything_that_is_called():
    assert find_factory("functools:partial") is partial
