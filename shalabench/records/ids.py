"""Identities: hashes of everything that decides a number, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

NOT_IDENTITY = ("compile", "graphs", "log_every")  # change the speed or the log, not the result
# Settings that older runs lack, and the values that they used.
_LATER = {
    "tf32": False,
    "experts": "all",
    "spacing": "uniform",
    "joint_temperature": 1.0,
    "given_temperature": 1.0,
    "cooldown": 0.1,
    "captions": "whole",
}
_LATER_OF_PRIORS = {"cooldown": 0.1}  # the same of fitted priors, which always had the others


def hash_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def without_later_settings(
    settings: Mapping[str, Any], later: Mapping[str, Any] = MappingProxyType(_LATER)
) -> dict[str, Any]:
    """Leave out each setting that older runs lack if it has the value that they used.

    A new setting thus changes no identity as long as it has this value. Without a fitted prior, the
    dotted keys of the section "prior" are left out too.

    Args:
        settings: By dotted key, or as nested tables.
        later: The settings that older runs lack, and the values that they used.
    """
    if settings.get("prior.kind", "own") == "own":
        settings = {key: value for key, value in settings.items() if key[:6] != "prior."}
    plain = {key: key.rpartition(".")[2] for key in settings}
    return {
        key: without_later_settings(value, later) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if plain[key] not in later or value != later[plain[key]]
    }


def with_later_settings(settings: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Add each setting that an older run lacks, with the value that it used.

    Args:
        settings: Of the run.
        known: Dotted keys of all settings today.
    """
    plain = {key: key.rpartition(".")[2] for key in known if key not in settings}
    return {**settings, **{key: _LATER[name] for key, name in plain.items() if name in _LATER}}


def train_id(
    model: str,
    model_version: int,
    settings: Mapping[str, Any],
    dataset: str,
    fingerprint: str,
    train: Mapping[str, Any],
    seed: int,
    prior: Mapping[str, Any] | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> str:
    """Identity of a training.

    Args:
        model, model_version, settings: Of the method, as plain values.
        dataset, fingerprint: Of the data.
        train: Settings of the training loop, as plain values.
        seed: Of the run.
        prior: Of the fitted prior that replaces the method's, where one does.
        sampling: Settings of every sampler, as plain values.
    """
    dials = without_later_settings(sampling or {})
    loop = {key: value for key, value in train.items() if key not in NOT_IDENTITY}
    return hash_of(
        {
            "model": model,
            "model_version": model_version,
            "settings": without_later_settings(settings),
            "dataset": dataset,
            "fingerprint": fingerprint,
            "train": without_later_settings(loop),
            "seed": seed,
        }
        | ({"prior": without_later_settings(prior, _LATER_OF_PRIORS)} if prior else {})
        | ({"sampling": dials} if dials else {})
    )


def eval_id(
    training: str,
    evaluator: str,
    version: int,
    settings: Mapping[str, Any],
    classifiers: Mapping[str, str],
    split: str,
    n: int,
) -> str:
    """Identity of an evaluation.

    Args:
        training: The `train_id`.
        evaluator, version, settings: Of the evaluator, as plain values.
        classifiers: Digest of the weights by modality; empty where unused.
        split, n: Name and size of the split.
    """
    return hash_of(
        {
            "training": training,
            "evaluator": evaluator,
            "version": version,
            "settings": settings,
            "classifiers": dict(classifiers),
            "split": split,
            "n": n,
        }
    )
