"""VAEs with one shared latent whose posterior is a pooling of the modalities' Gaussian experts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from shalabench.api import Batch, DataSpec, Rng, Settings, Views
from shalabench.nets.experts import choose_components, pick, sliced_components, subsets
from shalabench.nets.pooling import (
    Pooling,
    log_overlaps,
    pool,
    pool_all,
    refuse_rho,
    refuse_subsets,
)
from shalabench.nets.posteriors import Posterior, draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence


@dataclass(frozen=True)
class Rule:
    """What a method pools, and which sets of modalities it trains.

    Attributes:
        pooling: How experts make one posterior.
        rho: Correlation of their errors, for a consensus.
        subsets: Whether all subsets are trained, as a mixture; else the full set alone.
        sliced: Whether an item's subset depends on its position in the batch; else it is random.
    """

    pooling: Pooling
    rho: float = 0.0
    subsets: bool = False
    sliced: bool = False


class PooledLatent(SharedLatent):
    """q(z|X) is the pooling of all experts, or the mixture of the poolings of all subsets.

    A method derives from it and gives `rule`. Its settings also have `beta`.
    """

    incomplete = True

    @classmethod
    @abstractmethod
    def rule(cls, config: Any) -> Rule:
        """The method's rule under its settings."""

    @classmethod
    def skip(cls, spec: DataSpec, config: Settings) -> str | None:
        rule = cls.rule(config)
        if rule.pooling == "consensus" and (reason := refuse_rho(spec, rule.rho)):
            return reason
        if not rule.subsets:
            return None
        return refuse_subsets(spec, "Use a method, or model.training=full, that trains one")

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound, with one sample for each tuple, mean over the batch.

        sum_m -lambda_m log p(x_m | z) + beta mean_S KL(q_S || N(0, I)), z ~ mean_S q_S. Here m goes
        over the present modalities, and S over their subsets or is the set of all of them.
        """
        names, rule = self.spec.names, self.rule(self.config)
        q = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        pooled, valid = self._pool(q, there, rule)  # [S, B, D], [S, B]
        if rule.sliced and batch.present is None:
            which = sliced_components(len(valid), len(batch), valid.device)
        else:
            which = choose_components(valid.float(), rng.fork("component"))
        z = draw(pick(pooled, which), rng)[0]  # [B, D]
        density = self.log_likelihoods(batch.views, z).where(there, 0.0)  # [M, B]
        rate = kl_to_standard(pooled).where(valid, 0.0).sum(0) / valid.sum(0)
        loss = (self.config.beta * rate - density.sum(0)).mean()
        terms = own_losses(names, density, there) | {"kl": rate.mean()}
        if rule.pooling == "hellinger":
            terms["log_overlap"] = mean_log_overlap(q, there)
        return loss, terms

    def _pool(self, q: Posterior, there: Tensor, rule: Rule) -> tuple[Normal, Tensor]:
        """The posterior of each trained set, and whether all of the set is present.

        Args:
            q: Experts, batch shape `[M, B, D]`.
            there: `[M, B]` bool.
            rule: Of the method.

        Returns:
            Batch shape `[S, B, D]`, and `[S, B]` bool.
        """
        if not rule.subsets:
            return pool(q, there.T[None], rule.pooling, rule.rho), torch.ones_like(there[:1])
        members, valid = present_subsets(there)
        return pool(q, members, rule.pooling, rule.rho), valid

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the pooled posterior of the given modalities."""
        rule = self.rule(self.config)
        return draw(pool_all(self.experts(given), rule.pooling, rule.rho), rng)[0]


def present_subsets(there: Tensor) -> tuple[Tensor, Tensor]:
    """All subsets, each item's present members of them, and whether all members are present.

    Args:
        there: `[M, B]` bool.

    Returns:
        `[S, B, M]` and `[S, B]`, both bool.
    """
    members = subsets(len(there), there.device)[:, None]  # [S, 1, M]
    return members & there.T, (there.T | ~members).all(-1)


@torch.no_grad()
def mean_log_overlap(q: Posterior, there: Tensor) -> Tensor:
    """The mean of ln S_ij in nats over all pairs of experts that are `there`, `[M, B]` bool."""
    i, j = torch.triu_indices(len(there), len(there), 1, device=there.device)
    pairs = there[i] & there[j]  # [P, B]
    return log_overlaps(q).where(pairs, 0.0).sum() / pairs.sum().clamp(min=1)
