"""Networks that are evaluated together against the same networks called one by one."""

import copy

import pytest
import torch
from torch import nn

from shalabench.api import Modality
from shalabench.nets.backbones import Network, decoder, encoder, initialise
from shalabench.nets.posteriors import LaplaceHead, NormalHead
from shalabench.nets.stacked import apply_each

IMAGE = Modality("m", "image", (3, 28, 28))


def towers(kind: str, count: int, **settings) -> list[nn.Module]:
    torch.manual_seed(0)
    network = Network(width=0.25, hidden=24, initialisation="kaiming", **settings)
    heads = {"point": nn.Linear, "normal": NormalHead, "laplace": LaplaceHead}
    made: list[nn.Module] = []
    for _ in range(count):
        if kind == "decoder":
            made.append(decoder(IMAGE, 8, network))
        else:
            trunk = encoder(IMAGE, network)
            made.append(nn.Sequential(trunk, heads[kind](trunk.features, 5)))
        initialise(made[-1], network)
    return made


def flat(output) -> torch.Tensor:
    parts = [output] if isinstance(output, torch.Tensor) else [output.mean, output.scale]
    return torch.cat([part.flatten(1) for part in parts], 1)


@pytest.mark.parametrize("family", ["conv", "resnet"])
@pytest.mark.parametrize("kind", ["point", "normal", "laplace", "decoder"])
@pytest.mark.parametrize("items", [6, 60])
def test_outputs_and_gradients_are_those_of_single_calls(family, kind, items):
    networks = [n.double() for n in towers(kind, 3, family=family, activation="silu")]
    copies = copy.deepcopy(networks)
    shape = (8,) if kind == "decoder" else IMAGE.shape
    inputs = [torch.randn(items, *shape).double().requires_grad_() for _ in networks]
    copied = [x.detach().clone().requires_grad_() for x in inputs]
    together = [flat(y) for y in apply_each(networks, inputs)]
    single = [flat(n(x)) for n, x in zip(copies, copied, strict=True)]
    torch.testing.assert_close(together, single)
    weights = torch.randn(len(together), *together[0].shape).double()
    (torch.stack(together) * weights).sum().backward()
    (torch.stack(single) * weights).sum().backward()
    torch.testing.assert_close([x.grad for x in inputs], [x.grad for x in copied])
    for network, other in zip(networks, copies, strict=True):
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)


def test_a_coarse_image_is_added_for_each():
    networks = towers("decoder", 2, coarse=4)
    for network in networks:
        nn.init.normal_(network.coarse[0].weight)
    z = torch.randn(3, 8)
    for made, network in zip(apply_each(networks, [z, z]), networks, strict=True):
        torch.testing.assert_close(made, network(z))


def test_different_networks_and_sizes_are_kept_apart():
    networks = [nn.Linear(4, 2), nn.Linear(4, 3), nn.Linear(4, 2), nn.GELU()]
    inputs = [torch.randn(5, 4), torch.randn(5, 4), torch.randn(6, 4), torch.randn(5, 4)]
    networks += [nn.Conv2d(4, 4, 3, groups=2) for _ in range(2)]
    inputs += [torch.randn(5, 4, 6, 6) for _ in range(2)]
    for made, network, x in zip(apply_each(networks, inputs), networks, inputs, strict=True):
        torch.testing.assert_close(made, network(x))


def test_gradients_in_bfloat16_are_float32_and_close():
    networks = towers("decoder", 3, activation="silu")
    copies = copy.deepcopy(networks)
    z = torch.randn(40, 8)
    with torch.autocast("cpu", torch.bfloat16):
        made = apply_each(networks, [z] * 3)
        sum(y.square().mean() for y in made).backward()
    assert all(y.dtype == torch.float32 for y in made)
    sum(network(z).square().mean() for network in copies).backward()
    for network, other in zip(networks, copies, strict=True):
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            assert p.grad.dtype == torch.float32
            assert (p.grad - q.grad).norm() < 0.05 * q.grad.norm()


def test_frozen_networks_pass_gradients_to_their_inputs_only():
    networks = towers("decoder", 2)
    for network in networks:
        network.requires_grad_(False)
    z = torch.randn(3, 8, requires_grad=True)
    sum(y.sum() for y in apply_each(networks, [z, z])).backward()
    assert z.grad is not None
    assert all(p.grad is None for network in networks for p in network.parameters())


def test_compiled_networks_are_called(monkeypatch):
    networks = towers("decoder", 2)
    called = []
    for network in networks:
        network._compiled_call_impl = lambda z: called.append(z) or z
    apply_each(networks, [torch.zeros(1, 8)] * 2)
    assert len(called) == 2
