"""Weights on loan: what a finished run trained alike is not trained again.

A stage may name settings that neither it nor a stage before it reads (`Stage.ignores`), such as
the scale of a guidance that only samplers know, or the width of a prior that is trained later. A
run that differs in nothing else from a finished one of its store takes these stages' weights from
it. They are the ones that it would have trained, bit for bit on a CPU, as code, packages, device
and threads are the same; and its record names the lender.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shalabench.api import BenchError, Stage
from shalabench.execute.mixture import BUFFERS, FitMixture
from shalabench.records.store import RunFolder, Store

_MADE_BY = ("source", "nets", "packages", "platform", "device", "threads")
_SAME = ("model", "model_version", "dataset", "seed")
_MIXTURE = "prior"  # section of settings that only the mixture's own stage reads


@dataclass(frozen=True)
class Loan:
    """The weights of a lender's first stages.

    Attributes:
        lender: Its folder's name.
        stages: Their names, in order.
        weights: Its file.
        last: The last reading of their loss terms.
        spent: Seconds by the wall and of the processor until each of them ended.
    """

    lender: str
    stages: tuple[str, ...]
    weights: Path
    last: dict[str, dict[str, float]]
    spent: dict[str, list[float]]

    def take(self, model: nn.Module, stages: Sequence[Stage]) -> dict[str, Any]:
        """Load the weights; returns what a checkpoint after the last of the stages would say."""
        state = torch.load(self.weights, map_location="cpu", weights_only=True)
        lent = stages[: len(self.stages)]
        modules = [stage.module for stage in lent]
        fitted = any(isinstance(stage, FitMixture) for stage in lent)
        taken = {
            k: state[k]
            for k in model.state_dict()
            if k in state and _is_in(k, model, modules) and (fitted or not k.startswith(BUFFERS))
        }
        model.load_state_dict(taken, strict=False)
        spent = self.spent[self.stages[-1]]
        return {"stage": len(self.stages), "step": 0, "last": dict(self.last), "spent": spent}


def find_loan(
    store: Store, borrower: RunFolder, made_by: Mapping[str, Any], stages: Sequence[Stage]
) -> Loan | None:
    """The loan that saves most stages, or None.

    Args:
        store: Where lenders are looked for.
        borrower: Its run is written.
        made_by: Digests of its code, packages and device; a lender's are the same.
        stages: The borrower's, in order.
    """
    run = borrower.run
    found: Loan | None = None
    for folder in store.runs():
        if not folder.weights.exists():
            continue
        try:
            loan = _loan_of(folder, run, made_by, stages, len(found.stages) if found else 0)
        except (BenchError, KeyError, TypeError):  # a record of another kind lends nothing
            continue
        found = loan or found
    return found


def _loan_of(
    folder: RunFolder,
    run: Mapping[str, Any],
    made_by: Mapping[str, Any],
    stages: Sequence[Stage],
    least: int,
) -> Loan | None:
    """What a run's folder lends, if it is more than `least` stages."""
    trained = folder.trained
    if trained is None or any(trained["provenance"][k] != made_by[k] for k in _MADE_BY):
        return None
    names = _common(run, folder.run, stages)
    if len(names) <= least:
        return None
    spent = {e["stage"]: e["spent"] for e in folder.events() if e["kind"] == "finished"}
    names = tuple(itertools.takewhile(spent.__contains__, names))  # older runs kept no times
    if len(names) <= least:
        return None
    last = {name: trained["last"][name] for name in names}
    return Loan(folder.path.name, names, folder.weights, last, spent)


def _common(
    own: Mapping[str, Any], other: Mapping[str, Any], stages: Sequence[Stage]
) -> tuple[str, ...]:
    """Names of the first stages that both runs train alike."""
    alike = all(own[key] == other[key] for key in _SAME)
    if not alike or own["data"]["fingerprint"] != other["data"]["fingerprint"]:
        return ()
    keys = {*own["settings"], *other["settings"]}
    differing = {k for k in keys if own["settings"].get(k) != other["settings"].get(k)}
    differing -= {"train.log_every"}  # unlike compilation, which may round otherwise
    differing = {k for k in differing if not k.startswith(("evaluators.", "data."))}
    for count in range(len(stages), 0, -1):
        last = stages[count - 1]
        ignored = tuple(f"model.{name}" for name in last.ignores)
        ignored += () if isinstance(last, FitMixture) else (_MIXTURE,)
        if all(k in ignored or k.startswith(tuple(f"{i}." for i in ignored)) for k in differing):
            return tuple(stage.name for stage in stages[:count])
    return ()


def _is_in(key: str, model: nn.Module, modules: Sequence[nn.Module | None]) -> bool:
    """Whether a weight belongs to one of some parts of a model; None is the whole."""
    if any(module is None or module is model for module in modules):
        return True
    names = [name for name, part in model.named_modules() if any(part is m for m in modules)]
    return key.startswith(tuple(f"{name}." for name in names))
