"""A mixture prior with learned means, and the pruning of its components."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal
from torch.nn import functional

from shalabench.api import Rng
from shalabench.nets.importance import expert_mean


class ClusterPrior(nn.Module):
    """The prior p(z) = sum_c pi_c p(z|c) with learned pi and means, and scale 1.

    Args:
        clusters: C.
        dim: D, size of the latent.
        laplace: Whether the components are Laplace; else they are Normal.
    """

    kept: Tensor

    def __init__(self, clusters: int, dim: int, laplace: bool):
        super().__init__()
        self.kind = Laplace if laplace else Normal
        self.logits = nn.Parameter(torch.zeros(clusters))
        self.means = nn.Parameter(torch.empty(clusters, dim).uniform_(-1, 1))
        # The clusters that the pruning has kept; pi is renormalised over them.
        self.register_buffer("kept", torch.ones(clusters, dtype=torch.bool))

    @property
    def log_pi(self) -> Tensor:
        """Log pi `[C]`; minus infinity for a pruned cluster."""
        return _log_pi(self.logits, self.kept)

    def component_log_prob(self, z: Tensor) -> Tensor:
        """Log p(z|c) of latents `[..., D]` for every cluster, `[..., C]`."""
        scale = torch.ones_like(self.means)
        return self.kind(self.means, scale, validate_args=False).log_prob(z.unsqueeze(-2)).sum(-1)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log p(z) of latents `[..., D]`, `[...]`.

        It equals the published sum_c q(c|z) (log pi_c + log p(z|c) - log q(c|z)), in value and
        gradient, because q(c|z) is the exact posterior, pi_c p(z|c) over its sum.
        """
        return (self.log_pi + self.component_log_prob(z)).logsumexp(-1)

    def draw(self, n: int, rng: Rng) -> Tensor:
        """Draw latents `[n, D]` from the mixture of the kept clusters."""
        gumbel = -torch.log(-torch.log(rng.uniform(n, len(self.logits))))
        cluster = (self.log_pi + gumbel).argmax(-1)  # [n], distributed as pi
        noise = rng.laplace if self.kind is Laplace else rng.normal
        return self.means[cluster] + noise(n, self.means.shape[1])

    @torch.no_grad()
    def prune(self, densities: Tensor, beta: float, present: Tensor | None = None) -> Tensor:
        """Drop clusters one by one, and keep the best of the sets on the way.

        The cluster with the least probability mass is dropped first. The mass of a tuple belongs to
        the cluster that most of its modalities choose. It is the largest of the q(c|z) averaged
        over modalities. The best set has the least beta H - l, where H is the mean entropy of
        q(c|z) over log C, and l the mean of log p(z) over D (CMVAE code, 2024 release,
        prune_polyMNIST). A single cluster is never chosen, since its entropy is always 0.

        Args:
            densities: log p(z|c) at a draw of every expert for every tuple, `[M, N, C]`.
            beta: Factor of the entropy.
            present: `[N, M]` bool; None if no modality is missing.

        Returns:
            The objective `[C]` after 0, 1, ... C - 1 clusters are dropped.
        """
        clusters, dim = self.means.shape
        kept, sets, objective = torch.ones_like(self.kept), [], []
        for _ in range(clusters):
            joint = _log_pi(self.logits, kept) + densities  # [M, N, C]
            q = joint.softmax(-1)
            entropy = -torch.xlogy(q, q).sum(-1) / math.log(max(clusters, 2))  # [M, N]
            objective.append(expert_mean(beta * entropy - joint.logsumexp(-1) / dim, present))
            sets.append(kept)
            least = _mass(q, present).masked_fill(~kept, math.inf).argmin()
            kept = kept.index_fill(0, least, False)
        best = torch.stack(objective)[: max(clusters - 1, 1)].argmin()
        self.kept.copy_(sets[int(best)])
        return torch.stack(objective)


def _log_pi(logits: Tensor, kept: Tensor) -> Tensor:
    return logits.masked_fill(~kept, -math.inf).log_softmax(-1)


def _mass(q: Tensor, present: Tensor | None) -> Tensor:
    """Probability mass of each cluster `[C]` from q(c|z) `[M, N, C]`."""
    clusters = q.shape[-1]
    there = torch.ones_like(q[..., :1]) if present is None else present.T[..., None].to(q)
    votes = (functional.one_hot(q.argmax(-1), clusters) * there).sum(0)  # [N, C]
    confidence = ((q * there).sum(0) / there.sum(0)).amax(-1)  # [N]
    return (functional.one_hot(votes.argmax(-1), clusters) * confidence[:, None]).sum(0)
