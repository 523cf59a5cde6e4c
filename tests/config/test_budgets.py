"""The file of budgets says what the preset `paper` says, so that tables need no method's code."""

from __future__ import annotations

import pytest

from shalabench.api.registry import entries
from shalabench.config.settings import resolve
from shalabench.records.budgets import budget_of, read_budgets

DATASETS = ("polymnist", "mst", "cub", "cars", "shapenet-cars")
OPEN = ("our choice", "not published")
SILENT = {"shala"}  # its paper gives no number of updates; those of stage 1 are MMVAE+'s


def stages(values):
    """The stages among a run's settings, with the keys of their updates and of their batch size."""
    for key in values:
        if key.startswith("model.") and key.endswith((".steps", "_steps")):
            start = key.removesuffix("steps")
            if f"{start}batch_size" in values:
                yield start.removeprefix("model.").strip("._"), key, f"{start}batch_size"


@pytest.mark.parametrize("method", sorted(entries("model")))
@pytest.mark.parametrize("dataset", ["toy", *DATASETS])
def test_budgets_are_those_of_the_preset_paper(method, dataset):
    paper = resolve(method, dataset, "paper", [])
    values = paper.values()
    found = list(stages(values))
    assert {stage for stage, _, _ in found} == {
        stage for name, _, stage in read_budgets() if name == method
    }
    for stage, steps, size in found:
        budget = budget_of(method, dataset, stage)
        assert (budget.updates, budget.batch_size) == (values[steps], values[size])
        source = paper.origins[steps].source
        is_open = source.startswith(OPEN) or method in SILENT
        if is_open and not budget.dataset and dataset != "toy":
            assert not budget.published_for
        if budget.dataset in ("", dataset) and dataset == (budget.dataset or "toy"):
            assert budget.source == " ".join(source.split())
            assert bool(budget.published_for) != is_open


def test_only_budgets_of_two_methods_call_runs_undertrained():
    marked = {(b.method, b.stage) for b in read_budgets().values() if b.undertrained}
    assert marked == {("mld", "prior"), ("sbm-ae", "prior")}
