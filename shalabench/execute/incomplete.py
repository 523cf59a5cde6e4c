"""Training tuples of which some views are absent."""

from __future__ import annotations

from dataclasses import replace

import torch

from shalabench.api import DataSpec, Model, Rng, Split, derive_seed
from shalabench.records.ids import hash_of


def incomplete_spec(spec: DataSpec, missing: float) -> DataSpec:
    """What a dataset is once views of its training tuples are hidden; itself where none is."""
    if not missing:
        return spec
    return replace(
        spec,
        missing=missing,
        fingerprint=hash_of({"complete": spec.fingerprint, "missing": missing}),
        source=f"{spec.source}; each training view absent with probability {missing:g}",
    )


def lacks_views(cls: type[Model], spec: DataSpec) -> str | None:
    """Why a method cannot train on incomplete tuples, as a sentence; None where it can."""
    if not spec.missing or cls.incomplete:
        return None
    return "Its objective is defined on complete tuples; run it with data.missing=0."


def hide_views(split: Split, spec: DataSpec) -> Split:
    """The split with views zeroed and marked absent, the same ones for every method and seed.

    Each view is absent with probability `spec.missing`, independently; a tuple that would lose all
    keeps one, drawn evenly.
    """
    if not spec.missing:
        return split
    rng = Rng(derive_seed("missing", spec.fingerprint), device=split.device)
    n, names = len(split), spec.names
    present = rng.uniform(n, len(names)) >= spec.missing  # [N, M]
    kept = torch.nn.functional.one_hot(rng.integers(len(names), n), len(names)).bool()
    present |= kept & ~present.any(1, keepdim=True)
    tensors, rows = {}, {}
    for m, name in enumerate(names):
        x, own = split.tensors[name], present[:, m]
        if name in split.rows:  # an absent view shows a row of zeros, which is added
            tensors[name] = torch.cat([x, torch.zeros_like(x[:1])])
            rows[name] = split.rows[name].where(own, len(x))
        else:
            tensors[name] = x * own.view(-1, *(1,) * (x.dim() - 1))
    return replace(split, tensors=tensors, present=present, rows=rows)
