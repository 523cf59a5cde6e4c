"""Datasets of which some views of the training tuples are absent."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import torch

from shalabench.api import DataPaths, Dataset, DataSpec, Model, Rng, Split, derive_seed
from shalabench.api.dataset import SplitName
from shalabench.records.ids import hash_of


class Incomplete(Dataset):
    """A dataset with views of its training tuples hidden, the same ones for every method and seed.

    Each view is absent with probability `missing`, independently; a tuple that would lose all
    keeps one, drawn evenly. The validation and test splits stay complete.

    Args:
        complete: The dataset, prepared.
        missing: In (0, 1).
    """

    def __init__(self, complete: Dataset, missing: float):
        super().__init__(complete.config)
        self.complete, self.missing = complete, missing
        self.name, self.version = complete.name, complete.version

    def prepare(self, paths: DataPaths, *, download: bool = False) -> None:
        self.complete.prepare(paths, download=download)

    @cached_property
    def spec(self) -> DataSpec:
        whole = self.complete.spec
        return replace(
            whole,
            missing=self.missing,
            fingerprint=hash_of({"complete": whole.fingerprint, "missing": self.missing}),
            source=f"{whole.source}; each training view absent with probability {self.missing:g}",
        )

    def split(self, name: SplitName) -> Split:
        split = self.complete.split(name)
        return self._hide_views(split) if name == "train" else split

    def _hide_views(self, split: Split) -> Split:
        """The split with absent views zeroed and marked."""
        rng = Rng(derive_seed("missing", self.spec.fingerprint), device=split.device)
        n, names = len(split), self.spec.names
        present = rng.uniform(n, len(names)) >= self.missing  # [N, M]
        kept = torch.nn.functional.one_hot(rng.integers(len(names), n), len(names)).bool()
        present |= kept & ~present.any(1, keepdim=True)
        tensors, rows = {}, {}
        for m, name in enumerate(names):
            x, there = split.tensors[name], present[:, m]
            if name in split.rows:  # an absent view shows a row of zeros, which is added
                tensors[name] = torch.cat([x, torch.zeros_like(x[:1])])
                rows[name] = split.rows[name].where(there, len(x))
            else:
                tensors[name] = x * there.view(-1, *(1,) * (x.dim() - 1))
        return replace(split, tensors=tensors, present=present, rows=rows)


def hide_views(dataset: Dataset, missing: float) -> Dataset:
    """Hide views of the training tuples of a dataset; with `missing` 0 it stays as it is."""
    return Incomplete(dataset, missing) if missing else dataset


def needs_complete_tuples(cls: type[Model], spec: DataSpec) -> str | None:
    """Why a method cannot train on such data, as a sentence; None where it can."""
    if not spec.missing or cls.incomplete:
        return None
    return "Its objective is defined on complete tuples; run it with data.missing=0."
