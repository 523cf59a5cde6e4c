"""Costs of trainings, from records whose numbers are known."""

from __future__ import annotations

import csv
import io
import json

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.analysis.costs import costs_of
from shalabench.analysis.tables import make_tables, render
from shalabench.records.frame import load
from shalabench.records.store import Store

MLD = {
    "model.steps": 100,
    "model.batch_size": 30,
    "model.prior.steps": 7020,
    "model.prior.batch_size": 256,
}


def spend(folder, stages=("vae",), **facts):
    """Add stages, parameters and times to a run's record."""
    trained = json.loads((folder / "trained.json").read_text())
    trained |= {"parameters": 2_500_000, "last": {stage: {} for stage in stages}}
    trained["provenance"] |= facts
    (folder / "trained.json").write_text(json.dumps(trained))


@pytest.fixture
def store(tmp_path):
    for seed, cpu in enumerate((1000, 1300)):
        settings = {"model.steps": 1170, "model.batch_size": 128}
        folder = write_run(tmp_path, "mmvae+", seed, 0.3, settings=settings)
        spend(folder, seconds=2000.0, cpu_seconds=float(cpu))
    folder = write_run(tmp_path, "mld", 0, 0.1, settings=MLD)
    spend(folder, ("autoencoders", "prior"), seconds=900.0)
    settings = {"model.steps": 1170, "model.batch_size": 128}
    spend(write_run(tmp_path, "shala", 0, 0.5, settings=settings), seconds=1.0, cpu_seconds=2.0)
    return Store(tmp_path)


@pytest.fixture
def rows(store):
    [table] = [t for t in make_tables([store], "coherence/joint") if t.dataset == "polymnist"]
    return {row.label: row for row in table.rows if row.runs}


def test_tuples_are_updates_times_batch_size_and_the_first_stage_stands_apart(rows):
    plus, mld = rows["mmvae+"].costs, rows["mld"].costs
    assert (plus.tuples, plus.later_tuples) == (1170 * 128, None)
    assert (mld.tuples, mld.later_tuples) == (3000, 7020 * 256)
    assert plus.parameters == 2_500_000


def test_a_row_of_several_priors_has_the_costs_of_the_first_and_no_mean_over_them(tmp_path):
    sizes = {"model.steps": 1170, "model.batch_size": 128}
    fitted = {"prior.diffusion.steps": 500, "prior.diffusion.batch_size": 64}
    for kind, more, stages, parameters in (
        ("own", {}, ("vae",), 1_000_000),
        ("gmm", {}, ("vae", "mixture"), 1_000_000),
        ("diffusion", fitted, ("vae", "fitted-diffusion"), 3_000_000),
    ):
        settings = sizes | {"prior.kind": kind} | more
        folder = write_run(tmp_path, "mopoe", 0, 0.5, settings=settings, name=kind)
        spend(folder, stages, parameters=0, cpu_seconds=100.0 + len(stages))
        trained = json.loads((folder / "trained.json").read_text())
        (folder / "trained.json").write_text(json.dumps(trained | {"parameters": parameters}))
    [table] = make_tables([Store(tmp_path)], "coherence/joint", dataset="polymnist", by="prior")
    costs = next(row for row in table.rows if row.runs).costs
    assert (costs.parameters, costs.cpu_seconds, costs.later_tuples) == (1_000_000, 101, None)
    [table] = make_tables([Store(tmp_path)], "coherence/joint", dataset="polymnist")
    later = [
        r.costs.later_tuples for r in table.rows if r.settings.get("prior.kind") == "diffusion"
    ]
    assert later == [500 * 64]


def test_shares_are_of_the_published_updates(rows):
    assert rows["mmvae+"].costs.share == pytest.approx(0.01)  # of 117,000 at 128
    assert rows["mld"].costs.share == pytest.approx(3000 / (140_400 * 128))
    assert rows["mld"].costs.later_share == pytest.approx(0.01)  # of 702,000 at 256
    assert rows["mld"].costs.share_published
    assert rows["shala"].costs.share == pytest.approx(0.01)
    assert not rows["shala"].costs.share_published  # its paper gives no number of updates


def test_processor_time_is_a_mean_over_seeds_and_older_records_have_the_wall_s(rows):
    plus, mld = rows["mmvae+"].costs, rows["mld"].costs
    assert (plus.cpu_seconds, mld.cpu_seconds, mld.seconds) == (1150, None, 900)
    assert [plus.cells()[-1], mld.cells()[-1]] == ["1,150", "~900"]


def test_one_seed_without_processor_time_leaves_the_row_without(store):
    spend(next(store.root.glob("mmvae+-1-*")), seconds=4000.0, cpu_seconds=None)
    runs = [run for run in load([store]).rows if run.model == "mmvae+"]
    costs = costs_of(runs, "polymnist")
    assert (costs.cpu_seconds, costs.seconds) == (None, 3000)


def test_a_row_is_undertrained_until_its_stage_saw_the_published_tuples(tmp_path):
    marked = {}
    for steps in (701_999, 702_000):
        folder = write_run(
            tmp_path / str(steps), "mld", 0, 0.1, settings=MLD | {"model.prior.steps": steps}
        )
        spend(folder, ("autoencoders", "prior"))
        [run] = load([Store(tmp_path / str(steps))]).rows
        marked[steps] = bool(costs_of([run], "polymnist").undertrained)
    assert marked == {701_999: True, 702_000: False}


def test_only_rows_whose_budget_says_so_are_marked(store, rows):
    assert [label for label, row in rows.items() if row.costs.undertrained] == ["mld"]
    tables = make_tables([store], "coherence/joint")
    text = render(tables, "text")
    assert [line.split()[0] for line in text.splitlines() if " ‡  " in line] == ["mld"]
    assert sum(line.strip().startswith("‡: mld") for line in text.splitlines()) == 1


def test_costs_are_columns_where_the_terminal_holds_them_else_a_table_of_their_own(store):
    def lines(*options):
        asked = ["table", "--metric", "coherence/joint", "--dataset", "polymnist"]
        asked += ["--store", str(store.root), *options]
        found = CliRunner().invoke(main, asked, env={"COLUMNS": "70"})
        assert found.exit_code == 0, found.output
        return found.output.splitlines()

    def heads(*options):
        return [line.split() for line in lines(*options) if line.startswith("method ")]

    costs = ["tuples", "later", "%", "of", "paper", "params", "CPU", "s"]
    assert heads() == [["method", "joint", "published"]]
    assert heads("--costs") == [["method", "joint", "published"], ["method", *costs]]
    [wide] = heads("--wide")
    assert wide[-len(costs) :] == costs
    second = [line for line in lines("--costs") if line.startswith(("mld", "mmvae+ "))][-2:]
    assert all(len(line) <= 70 for line in second)
    assert "other sources" in " ".join(wide)


def test_a_narrow_table_has_the_costs_without_being_asked(tmp_path):
    folder = write_run(tmp_path, "mld", 0, 0.1, settings=MLD, dataset="toy")
    spend(folder, ("autoencoders", "prior"), seconds=900.0)
    text = render(make_tables([Store(tmp_path)], "coherence/joint", dataset="toy"), "text")
    [head, row] = [line for line in text.splitlines() if line.startswith(("method", "mld ‡"))]
    assert head.split()[-2:] == ["CPU", "s"]
    assert row.split()[-1] == "~900"
    assert max(len(head), len(row)) <= 80


def test_machine_readable_formats_hold_the_costs_and_every_source(store):
    tables = make_tables([store], "coherence/joint", dataset="polymnist")
    cells = {row["method"]: row for row in csv.DictReader(io.StringIO(render(tables, "csv")))}
    assert cells["mld"]["tuples"] == "3000"
    assert cells["mld"]["later_tuples"] == str(7020 * 256)
    assert (cells["mld"]["cpu_seconds"], cells["mld"]["seconds"]) == ("", "900.0")
    assert cells["mld"]["undertrained"]
    assert not cells["mmvae+"]["undertrained"]
    assert float(cells["mmvae+"]["share"]) == pytest.approx(0.01)
    assert cells["mmvae+"]["other_sources"] == ""
    assert "cmvae" not in cells  # it was not run
    [table] = json.loads(render(tables, "json"))
    rows = {row["label"]: row for row in table["rows"]}
    assert rows["mld"]["costs"]["stages"] == {"autoencoders": 3000, "prior": 7020 * 256}
    assert rows["mvae"]["costs"] is None
    reported = {p["key"]: p["value"] for p in rows["cmvae"]["reported"]}
    assert reported == {"cui2026": 0.781, "multivae": 0.764, "palumbo2024": 0.781}
