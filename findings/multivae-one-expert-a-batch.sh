#!/usr/bin/env bash
# multivae 1.0.3: MMVAE.encode with several given modalities draws one expert for the whole batch,
# with NumPy's global generator. A mixture of experts draws one for each item. So coherence and FID
# given two or more modalities depend on the batch size, items of a batch are not independent, and
# torch.manual_seed does not repeat the values. MMVAE+ and CMVAE have the same line.
# Here, each item has its own expert: docs/protocols.md, benchmarks/peer_coherence.py.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1'
"$work/venv/bin/python" - << 'END'
from importlib.metadata import version

import torch
from multivae.data import MultimodalBaseDataset
from multivae.models import MMVAE, MMVAEConfig
from multivae.models.base import BaseEncoder
from pythae.models.base.base_utils import ModelOutput

print("multivae", version("multivae"), "torch", torch.__version__)


class Constant(BaseEncoder):
    """A posterior of nearly no variance; its mean says which encoder made it."""

    latent_dim = 1

    def __init__(self, mean):
        super().__init__()
        self.mean = mean

    def forward(self, x):
        mean = torch.full((len(x), 1), float(self.mean))
        return ModelOutput(embedding=mean, log_covariance=torch.full_like(mean, -30.0))


shapes = {"a": (1,), "b": (1,)}
config = MMVAEConfig(
    n_modalities=2, latent_dim=1, input_dims=shapes, prior_and_posterior_dist="normal"
)
model = MMVAE(config, encoders={"a": Constant(0), "b": Constant(1)})
data = MultimodalBaseDataset({name: torch.zeros(1000, 1) for name in shapes})
shares = []
for _ in range(30):
    torch.manual_seed(0)
    shares.append(round(model.encode(data).z.mean().item(), 3))
print("share of 1,000 items that expert b encodes, by call with one seed:", shares)
assert set(shares) == {0.0, 1.0}, "The experts are now drawn for each item, or repeatably."
END
