"""Toy data with classifiers, and a trained run whose samples are written and scored."""

from __future__ import annotations

import pytest
from helpers.campaigns import options, run, smoke, train_classifiers

from shalabench.records.store import Store


@pytest.fixture(scope="session")
def judges(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    train_classifiers(folder)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, judges):
    """A finished run of mvae, with coherence and quality measured."""
    folder = tmp_path_factory.mktemp("trained")
    few = "evaluators.quality.extractors=classifier"
    chosen = options(folder, judges, evaluators=("coherence", "quality"))
    summary, _ = run(smoke("mvae", overrides=(few,)), chosen)
    assert summary.exit_code == 0
    (found,) = Store(folder / "store").runs()
    return found
