"""What tests of objectives share: batches with absent views, and comparisons with loops."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from shalabench.api import Rng

D = 3  # of a latent
# By item and modality "a", "b" and "c": whether the view is there.
MISSING = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]]).bool()
STANDARD = Normal(torch.zeros(D).double(), torch.ones(D).double())


class FakeBatch:
    """Views, and which of them are present `[B, M]`; None: all."""

    def __init__(self, views, present=None):
        self.views, self.present = views, present
        self.index = torch.arange(len(self))

    def __len__(self):
        return len(next(iter(self.views.values())))


def batch_of(views, present=None):
    """Zeros stand where a view is absent, as a dataset gives them."""
    if present is None:
        return FakeBatch(views)
    blank = {}
    for there, (name, x) in zip(present.T, views.items(), strict=True):
        blank[name] = torch.where(there.view(-1, *(1,) * (x.dim() - 1)), x, 0)
    return FakeBatch(blank, present)


def build(cls, spec, network, **settings):
    return cls(spec, cls.Config(network=network, latent_dim=D, **settings))


def kl(q, p=STANDARD):
    return kl_divergence(q, p).sum()


def there(present, i):
    """Names of the modalities of item i that are present, of "a", "b" and "c"."""
    return [n for m, n in enumerate("abc") if present is None or present[i, m]]


def assert_close(ours, loop):
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


def assert_equal_to_loop(model, views, present, expected):
    """The loss and its gradient are a loop's; returns the loss terms."""
    value, terms = model.loss(FakeBatch(views, present), Rng(7), 10_000)
    torch.testing.assert_close(value, expected)
    weights = [p for p in model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(value, weights, materialize_grads=True)
    assert_close(ours, torch.autograd.grad(expected, weights, materialize_grads=True))
    assert all(t.isfinite() for t in terms.values())
    return terms


def assert_same_gradients(ours, loop, model):
    weights = list(model.parameters())
    grads = [torch.autograd.grad(x, weights, allow_unused=True) for x in (ours, loop)]
    for own, other in zip(*grads, strict=True):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-7)


def assert_float32_under_autocast(loss):
    """What `loss` returns, a value and terms, is in float32 and about the same; the value."""
    plain, _ = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, terms = loss()
    assert {value.dtype, *(t.dtype for t in terms.values())} == {torch.float32}
    torch.testing.assert_close(value, plain, rtol=0.02, atol=0)
    return value


class ConstantCoders:
    """Encoders that give known latents."""

    def __init__(self, latents, kept):
        self.latents, self.kept = latents, kept

    def encode(self, given):
        return self.latents

    def given(self, views, device):
        return self.kept
