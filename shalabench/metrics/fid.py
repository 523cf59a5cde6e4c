"""FID, KID, precision and recall: features -> statistics -> number, in float64.

The numbers come from torch-fidelity's functions on features that were extracted once. It does not
export them at its top level, so its version is pinned and a test checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

FAMILIES = ("fid", "kid", "precision", "recall")
_SUBSET = 1000  # images a KID subset, torch-fidelity's default; fewer where there are fewer
_NEIGHBOURS = 3  # of precision and recall, torch-fidelity's default (Kynkäänniemi et al. 2019)
_ROWS = 1000  # of a distance matrix at once, for memory
LEAST = _NEIGHBOURS + 2  # images; with fewer, a neighbourhood would be the whole set


@dataclass(frozen=True)
class Real:
    """Features of the reference images.

    Attributes:
        features: `[N, D]` float64 on the CPU.
        device: Where the resampling is computed.
    """

    features: Tensor
    device: torch.device | str = "cpu"

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """Mean `[D]` and covariance `[D, D]`, as numpy arrays."""
        from torch_fidelity.metric_fid import fid_features_to_statistics

        return fid_features_to_statistics(self.features)

    @cached_property
    def root(self) -> Tensor:
        """`[D, D]`, R with R R^T = covariance."""
        covariance = torch.from_numpy(self.statistics["sigma"]).to(self.device)
        values, vectors = torch.linalg.eigh(covariance)
        return vectors * values.clamp(min=0).sqrt()


@dataclass(frozen=True)
class Fidelity:
    """FID, KID, precision and recall of one set of generated images.

    Attributes:
        values: By family.
        replicates: By family `[G]`; their standard deviation over sqrt(G) is the standard error.
            Empty if there are too few images.
    """

    values: dict[str, float]
    replicates: dict[str, Tensor]


def compare(made: Tensor, real: Real, subsets: int, groups: int) -> Fidelity:
    """FID, KID, precision and recall of generated images.

    The errors come from `groups` interleaved groups of the features. FID: delete-a-group jackknife
    of the generated images (the repeated images of a bootstrap would raise a metric that is biased
    in n). The others: group against group, which rather overstates the error.

    Args:
        made: Features `[n, D]` of the generated images.
        real: Those of the reference.
        subsets: Draws of KID.
        groups: G; 0 for no errors.
    """
    made = made.double().cpu()
    precision, recall = precision_recall(made, real.features)
    values = {
        "fid": frechet(made, real),
        "kid": kernel(made, real.features, subsets),
        "precision": precision,
        "recall": recall,
    }
    if groups < 2 or min(len(made), len(real.features)) < LEAST * groups:
        return Fidelity(values, {})
    parts = [(made[g::groups], real.features[g::groups]) for g in range(groups)]
    both = torch.tensor([precision_recall(*part) for part in parts], dtype=torch.float64)
    left_out = frechet_left_out(made, real, groups)
    whole = left_out.new_tensor(values["fid"])
    replicates = {
        "fid": groups * whole - (groups - 1) * left_out,  # the jackknife's pseudo-values
        "kid": torch.tensor([kernel(*part, 1) for part in parts], dtype=torch.float64),
        "precision": both[:, 0],
        "recall": both[:, 1],
    }
    return Fidelity(values, replicates)


def frechet(made: Tensor, real: Real) -> float:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017)."""
    from torch_fidelity.metric_fid import (
        KEY_METRIC_FID,
        fid_features_to_statistics,
        fid_statistics_to_metric,
    )

    statistics = fid_features_to_statistics(made)
    return fid_statistics_to_metric(statistics, real.statistics, verbose=False)[KEY_METRIC_FID]


def effective_classes(shares: Tensor) -> Tensor:
    """Exponential of the entropy `[...]` of the classes' shares `[C, ...]`, which sum to 1."""
    return torch.special.entr(shares).sum(0).exp()


def kernel(made: Tensor, real: Tensor, subsets: int) -> float:
    """Unbiased squared MMD of a cubic kernel, mean over subsets (Bińkowski et al. 2018)."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(_SUBSET, len(made), len(real))
    result = kid_features_to_metric(
        made, real, kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    return result[KEY_METRIC_KID_MEAN]


def precision_recall(made: Tensor, real: Tensor) -> tuple[float, float]:
    """Share of generated images among the real ones, and of real among the generated ones."""
    from torch_fidelity.metric_prc import (
        KEY_METRIC_PRECISION,
        KEY_METRIC_RECALL,
        prc_features_to_metric,
    )

    result = prc_features_to_metric(  # the generated set comes first
        made,
        real,
        prc_neighborhood=_NEIGHBOURS,
        prc_batch_size=_ROWS,
        save_cpu_ram=True,
        verbose=False,
    )
    return result[KEY_METRIC_PRECISION], result[KEY_METRIC_RECALL]


def frechet_left_out(made: Tensor, real: Real, groups: int) -> Tensor:
    """FID `[G]` without each group of the generated images in turn; the reference stays whole.

    tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of R^T S1 R with S2 = R R^T, which
    is symmetric and several times faster than torch-fidelity's general form.
    """
    x = made.to(real.device)
    centre = x.mean(0)
    x = x - centre  # so that taking a group off the sums cancels no digits
    sums, products = x.sum(0), x.T @ x
    mean_real = torch.from_numpy(real.statistics["mu"]).to(x.device)
    trace_real = float(real.statistics["sigma"].trace())
    distances = []
    for g in range(groups):
        part = x[g::groups]
        n = len(x) - len(part)
        mean = (sums - part.sum(0)) / n
        covariance = (products - part.T @ part - n * torch.outer(mean, mean)) / (n - 1)
        inner = real.root.T @ covariance @ real.root
        root_trace = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum()
        distance = (mean + centre - mean_real).square().sum()
        distances.append(distance + covariance.trace() + trace_real - 2 * root_trace)
    return torch.stack(distances).cpu()
