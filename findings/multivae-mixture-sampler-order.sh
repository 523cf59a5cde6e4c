#!/usr/bin/env bash
# multivae 1.0.3: the samples of GaussianMixtureSampler are in the order of the mixture's components, batch
# by batch. (1) The first rows of a batch all come from one component, so a grid of the first samples, or
# joint coherence over the first N, sees one cluster. (2) MMVAE+ has a mixture for the shared latent and one
# for each private latent. Row i of each is in the same order, so row i pairs "early" components with
# "early" ones: shared and private latents, drawn independently, are strongly dependent.
# Both come from sklearn's GaussianMixture.sample, which groups rows by component; the sampler does not
# shuffle them. This matters for samples of MultiVae that are scored here (docs/external.md): shuffle the
# rows of every latent before decoding. The mixture of this project draws the component row by row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1' 'scikit-learn==1.9.1'
"$work/venv/bin/python" - 2> /dev/null << 'END'
import logging
from importlib.metadata import version

import numpy as np
import torch
from multivae.data import MultimodalBaseDataset
from multivae.models import MMVAEPlus, MMVAEPlusConfig
from multivae.models.base import BaseEncoder, ModelOutput
from multivae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig
from sklearn.metrics import normalized_mutual_info_score


class Halves(BaseEncoder):
    """Posteriors near the first three and the last three numbers of an item."""

    def forward(self, x):
        narrow = torch.full((len(x), 3), -4.0)
        return ModelOutput(
            embedding=x[:, :3],
            log_covariance=narrow,
            style_embedding=x[:, 3:],
            style_log_covariance=narrow,
        )


logging.disable(logging.CRITICAL)
torch.manual_seed(0)
np.random.seed(0)
centres = torch.tensor([[4.0, 4, 4], [-4, -4, 4], [4, -4, -4], [-4, 4, -4]])
halves = centres[torch.randint(4, (2, 800))]  # two clusters an item, drawn independently
item = torch.cat([*halves], 1) + 0.3 * torch.randn(800, 6)
shapes = {"a": (6,), "b": (6,)}
model = MMVAEPlus(
    MMVAEPlusConfig(2, 3, shapes, modalities_specific_dim=3),
    encoders={m: Halves() for m in shapes},
)
for encoder in model.encoders.values():
    encoder.latent_dim = 3
sampler = GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=4))
sampler.fit(MultimodalBaseDataset({m: item for m in shapes}))
drawn = sampler.sample(2000, batch_size=500)
shared, private = drawn.z.numpy(), drawn.modalities_z["a"].numpy()
a, b = sampler.gmm.predict(shared), sampler.mod_gmms["a"].predict(private)
first = [len(set(labels[:40].tolist())) for labels in (a, b)]
order = np.random.permutation(len(a))
together = normalized_mutual_info_score(a, b)
shuffled = normalized_mutual_info_score(a[order], b)
print("multivae", version("multivae"), "scikit-learn", version("scikit-learn"))
print("weights:", sampler.gmm.weights_.round(2), sampler.mod_gmms["a"].weights_.round(2))
print("components among the first 40 of a batch of 500, shared and private:", first)
print(f"mutual information of the rows' components: {together:.2f}; shuffled: {shuffled:.2f}")
assert max(first) <= 2, "The first rows now come from several components."
assert together > 0.2 > 0.05 > shuffled, "Shared and private latents are no longer dependent."
END
