"""FID, KID, precision and recall: features -> statistics -> number, in float64.

The numbers are those of torch-fidelity's functions on features that were extracted once. What they
compute for each pair of sets anew is computed once here; tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from shalabench.metrics.features import load_features, save_features
from shalabench.metrics.pairs import NEIGHBOURS, Within, across, draw, within

FAMILIES = ("fid", "kid", "precision", "recall")
LEAST = NEIGHBOURS + 2  # images; with fewer, a neighbourhood would be the whole set


@dataclass(frozen=True)
class Real:
    """Features of the reference images, and what is computed of them once.

    Attributes:
        features: `[N, D]` float64.
        device: Where all is computed.
        folder: Where what is computed is kept, under a key of the features; None to keep nothing.
    """

    features: Tensor
    device: torch.device | str = "cpu"
    folder: Path | None = None
    _within: dict[tuple[int, int, int], Within] = field(default_factory=dict, repr=False)

    @cached_property
    def on_device(self) -> Tensor:
        """The features, on the device."""
        return self.features.to(self.device)

    @cached_property
    def root(self) -> Tensor:
        """`[K, D]`, K = min(N, D), R with R^T R = covariance."""
        x = self.on_device

        def compute() -> dict[str, Tensor]:
            centred = (x - x.mean(0)) / (len(x) - 1) ** 0.5
            return {"root": torch.linalg.qr(centred, mode="r").R}

        return self._kept("root", compute)["root"]

    def within(self, drawn: Tensor, n: int, subsets: int, groups: int) -> Within:
        """Balls and kernel sums for comparisons with n images; see `pairs.draw`."""
        key = n, subsets, groups
        if key not in self._within:
            name = f"within-{n}-{subsets}-{groups}"
            found = self._kept(name, lambda: vars(within(self.on_device, drawn, groups)))
            self._within[key] = Within(**found)
        return self._within[key]

    def _kept(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `compute` returns, from its file if there is one."""
        file = self.folder / f"{name}.npz" if self.folder else None
        kept = load_features(file) if file else None
        if kept is None:
            found = compute()
            if file:
                save_features(file, {key: x.cpu().numpy() for key, x in found.items()})
            return found
        return {key: torch.from_numpy(x).to(self.on_device) for key, x in kept.items()}


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


def compare(
    made: Tensor, real: Real, subsets: int, groups: int, sources: Tensor | None = None
) -> Fidelity:
    """FID, KID, precision and recall of generated images.

    The errors come from `groups` interleaved groups of the features. FID: delete-a-group jackknife
    of the generated images (the repeated images of a bootstrap would raise a metric that is biased
    in n), all images of a source in one group. The others: group against group, which rather
    overstates the error.

    Args:
        made: Features `[n, D]` of the generated images.
        real: Those of the reference.
        subsets: Draws of KID.
        groups: G; 0 for no errors.
        sources: `[n]`, what the generated images were made from; None if they share nothing.
    """
    made, n = made.to(real.device).double(), len(made)
    if groups < 2 or min(n, len(real.features)) < LEAST * groups:
        groups = 0
    first, second = (x.to(made) for x in draw(n, len(real.features), subsets, groups))
    sides = within(made, first, groups), real.within(second, n, subsets, groups)
    found = across(made, real.on_device, (first, second), sides, groups)
    found = {name: x.cpu() for name, x in found.items()}
    kid = found.pop("kid")
    distances = frechet(made, real, groups, sources).cpu()
    values = {"fid": distances[0].item(), "kid": kid[:subsets].mean().item()}
    values |= {name: x[0].item() for name, x in found.items()}
    if not groups:
        return Fidelity(values, {})
    replicates = {"kid": kid[subsets:], **{name: x[1:] for name, x in found.items()}}
    if len(distances) > 1:  # the jackknife's pseudo-values
        replicates["fid"] = groups * distances[0] - (groups - 1) * distances[1:]
    return Fidelity(values, replicates)


def frechet(made: Tensor, real: Real, groups: int = 0, sources: Tensor | None = None) -> Tensor:
    """Fréchet distance of two Gaussians fitted to features (Heusel et al. 2017).

    tr (S1 S2)^(1/2) is the sum of the roots of the eigenvalues of R S1 R^T with S2 = R^T R. They
    are the squared singular values of X R^T / sqrt(n - 1) with X the centred features, so the
    smaller of its two Gram matrices serves. It is symmetric: several times faster than
    torch-fidelity's general form, and more exact where there are fewer images than dimensions.

    Args:
        made: Features `[n, D]` of the generated images.
        real: Those of the reference.
        groups: G; 0 where there are fewer sources.
        sources: As in `compare`.

    Returns:
        `[1 + G]`, of all generated images, and without each group of them in turn; the reference
        stays whole.
    """
    x = made.to(real.root)
    centre = x.mean(0)
    x = x - centre  # so that taking a group off the sums cancels no digits
    offset, squares, y = centre - real.on_device.mean(0), x.square().sum(1), x @ real.root.T
    parts: list[slice | Tensor] = [slice(0, 0)]
    if sources is None:
        parts += [slice(g, None, groups) for g in range(groups)]
    else:
        known, source = sources.to(x.device).unique(return_inverse=True)
        used = range(groups if len(known) >= groups else 0)
        parts += [(source % groups == g).nonzero()[:, 0] for g in used]
    few = len(y) < y.shape[1]
    whole = y @ y.T if few else y.T @ y
    trace_real, distances = real.root.square().sum(), []
    for part in parts:
        n = len(x) - len(x[part])
        mean, shift = (-z[part].sum(0) / n for z in (x, y))  # all rows together sum to 0
        if few:
            kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
            kept[part] = False
            inner = whole[kept][:, kept]
            inner = inner - inner.mean(0) - inner.mean(1, keepdim=True) + inner.mean()
        else:
            inner = torch.addmm(whole, y[part].T, y[part], alpha=-1)
            inner.addr_(shift, shift, alpha=-n)
        root_trace = torch.linalg.eigvalsh(inner).clamp(min=0).sqrt().sum() / (n - 1) ** 0.5
        trace = (squares.sum() - squares[part].sum() - n * mean.square().sum()) / (n - 1)
        distances.append((mean + offset).square().sum() + trace + trace_real - 2 * root_trace)
    return torch.stack(distances)


def effective_classes(shares: Tensor) -> Tensor:
    """Exponential of the entropy `[...]` of the classes' shares `[C, ...]`, which sum to 1."""
    return torch.special.entr(shares).sum(0).exp()
