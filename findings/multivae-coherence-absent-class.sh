#!/usr/bin/env bash
# multivae 1.0.3: the coherence evaluator takes the plain mean of the accuracies of all
# `num_classes` classes, and a class that the test data lack counts as 0. A model that makes no
# error then scores the share of classes that are present: 0.50 with five of ten.
# Here, coherence is the share of items (docs/protocols.md), and benchmarks/peer_coherence.py compares
# the two on data that have all classes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'multivae==1.0.3' 'torch==2.14.1'
"$work/venv/bin/python" - << 'END'
import logging
from importlib.metadata import version

import torch
from multivae.data import MultimodalBaseDataset
from multivae.metrics import CoherenceEvaluator, CoherenceEvaluatorConfig
from multivae.models import MMVAE, MMVAEConfig
from multivae.models.base import BaseDecoder, BaseEncoder
from pythae.models.base.base_utils import ModelOutput

logging.disable(logging.CRITICAL)
print("multivae", version("multivae"), "torch", torch.__version__)


class Copy(BaseEncoder):
    latent_dim = 1

    def forward(self, x):
        return ModelOutput(embedding=x, log_covariance=torch.full_like(x, -30.0))


class Read(BaseDecoder):
    latent_dim = 1

    def forward(self, z):
        return ModelOutput(reconstruction=z)


class Classifier(torch.nn.Module):
    """Each view is its label, so that every classifier and every translation is right."""

    def forward(self, x):
        return torch.eye(10)[x[:, 0].round().long()]


names = ("a", "b")
config = MMVAEConfig(
    n_modalities=2,
    latent_dim=1,
    input_dims=dict.fromkeys(names, (1,)),
    prior_and_posterior_dist="normal",
)
model = MMVAE(config, encoders={n: Copy() for n in names}, decoders={n: Read() for n in names})
for classes in (10, 5, 1):
    labels = torch.arange(100) % classes
    data = MultimodalBaseDataset({n: labels[:, None].float() for n in names}, labels)
    made = model.predict(data, cond_mod=["a"], gen_mod=["b"])["b"]
    right = (Classifier()(made).argmax(1) == labels).float().mean().item()
    settings = CoherenceEvaluatorConfig(batch_size=50, num_classes=10)
    judges = {n: Classifier() for n in names}
    means, _ = CoherenceEvaluator(model, judges, data, eval_config=settings).cross_coherences()
    print(f"{classes} of 10 classes present: accuracy {right:.2f}, cross coherence {means[0]:.2f}")
    assert right == 1 and abs(means[0] - classes / 10) < 1e-6, "Absent classes no longer count."
END
