#!/usr/bin/env bash
# multivae 1.0.3: compute_joint_nll, which LikelihoodsEvaluator reports, is no joint likelihood for
# MMVAE+ and DMVAE. MMVAE+ pops the last modality off the caller's data to count the items: the value
# leaves that modality out, and so does all that is computed from these data later. DMVAE does not reset
# its sums of log p(z) and log q(z|x): each item, and each chunk of samples, adds those before it.
# Here, MultiVae's objectives are the reference of benchmarks/peer.py, and they are right. Its MMVAE+
# likelihoods (docs/reproduction/mmvae-plus.md) must not stand beside those of other methods.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1'
"$work/venv/bin/python" - 2> /dev/null << 'END'
from importlib.metadata import version

import torch
from multivae import models
from multivae.data import MultimodalBaseDataset
from multivae.models.base import BaseDecoder, BaseEncoder
from pythae.models.base.base_utils import ModelOutput

print("multivae", version("multivae"), "torch", torch.__version__)
views = {"a": 0.0, "b": 2.0, "c": 4.0}  # of each item; p(x|z) = N(0, 1) for every z, so p(x) is known
exact = -torch.distributions.Normal(0, 1).log_prob(torch.tensor([*views.values()])).sum().item()


class Encode(BaseEncoder):
    latent_dim = 1

    def forward(self, x):
        q = {"embedding": x * 0 + 0.3, "log_covariance": x * 0}
        return ModelOutput(**q, **{f"style_{name}": value for name, value in q.items()})


class Decode(BaseDecoder):
    latent_dim = 1

    def forward(self, z):
        return ModelOutput(reconstruction=torch.zeros(len(z), 1))


def measure(name, items, **more):
    torch.manual_seed(0)
    kind, config = getattr(models, name), getattr(models, f"{name}Config")
    config = config(n_modalities=3, latent_dim=1, input_dims=dict.fromkeys(views, (1,)), **more)
    model = kind(config, {m: Encode() for m in views}, {m: Decode() for m in views})
    data = MultimodalBaseDataset({m: torch.full((items, 1), x) for m, x in views.items()})
    nll = model.compute_joint_nll(data, K=3000).item() / items
    print(f"{name}, {items} equal items: {nll:.2f} nats an item, exact {exact:.2f}; left: {[*data.data]}")
    return nll - exact, len(data.data)


assert abs(measure("MVAE", 2)[0]) < 0.2
error, left = measure("MMVAEPlus", 2, modalities_specific_dim=1, prior_and_posterior_dist="normal")
assert error < -8 and left == 2, "MMVAE+ now counts all modalities."  # -log p(c) is 8.9
one, four = (measure("DMVAE", n, modalities_specific_dim=dict.fromkeys(views, 1))[0] for n in (1, 4))
assert four > one + 5, "DMVAE's value an item no longer grows with the items."
END
