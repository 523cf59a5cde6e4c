"""Verdicts by simulation, and collapsed models from a made-up record."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from helpers.records import write_result, write_run
from scipy import stats

from shalabench.analysis.statistics import critical_range, difference, pooled_error
from shalabench.analysis.tables import make_tables, render
from shalabench.analysis.verdicts import behind
from shalabench.api import Score
from shalabench.records.store import Store

pytestmark = pytest.mark.float64
ITEM = 0.01  # an item error, of which seeds have four


def sides(values):
    """Scores of seeds from an array [N, rows, seeds]."""
    for table in values.tolist():
        yield [{seed: Score("m", x, 1000, ITEM) for seed, x in enumerate(row)} for row in table]


def called_worse(values, shared=()):
    """The share of tables [N, rows, seeds] in which some row is called worse than the best.

    `shared` are the seeds whose first stage the rows share.
    """
    count = 0
    for rows in sides(values):
        rows.sort(key=lambda row: -sum(score.value for score in row.values()))
        count += any(behind(rows, 1, [shared] * (len(rows) - 1)))
    return count / len(values)


def called_different(values):
    """The share of pairs [N, 2, seeds] that `compare` calls different."""
    return sum(difference(a, b).is_significant for a, b in sides(values)) / len(values)


def test_nine_equal_methods_with_three_seeds_give_a_false_worse_in_five_per_cent_of_tables():
    values = np.random.default_rng(0).normal(0.5, 4 * ITEM, (20_000, 9, 3))
    assert called_worse(values) < 0.05


@pytest.mark.parametrize("rows", [2, 3])
def test_few_equal_methods_are_called_worse_no_more_often(rows):
    values = np.random.default_rng(rows).normal(0.5, 4 * ITEM, (10_000, rows, 3))
    assert 0.02 < called_worse(values) < 0.05


def test_rows_of_unequal_spread_are_called_worse_in_few_tables():
    spreads = np.geomspace(1, 20, 9)[:, None] * ITEM
    values = np.random.default_rng(1).normal(0.5, spreads, (5_000, 9, 3))
    assert called_worse(values) < 0.09


def test_two_equal_methods_are_called_different_in_five_per_cent_of_comparisons():
    values = np.random.default_rng(2).normal(0.5, 4 * ITEM, (20_000, 2, 3))
    assert 0.03 < called_different(values) < 0.05


@pytest.mark.parametrize(("ratio", "share"), [(2, 0.06), (5, 0.08), (30, 0.06)])
def test_spreads_that_differ_cost_little(ratio, share):
    spreads = np.array([[1], [ratio]]) * ITEM
    values = np.random.default_rng(ratio).normal(0.5, spreads, (10_000, 2, 3))
    assert called_different(values) < share


def test_a_difference_of_four_standard_deviations_is_found():
    means = np.array([[0.5 + 4 * 4 * ITEM], [0.5]])
    values = np.random.default_rng(3).normal(means, 4 * ITEM, (10_000, 2, 3))
    assert called_different(values) > 0.9


def test_in_a_table_of_nine_the_others_are_found_behind_the_best():
    for deviations, power in ((4, 0.78), (6, 0.98)):
        means = np.array([[4 * ITEM * deviations], *[[0]] * 8])
        values = np.random.default_rng(4).normal(means, 4 * ITEM, (1000, 9, 3))
        found = [behind(rows, 1, [()] * 8) for rows in sides(values)]
        assert np.mean(found) > power


@pytest.mark.parametrize(("rows", "freedom"), [(2, 2), (2, 4), (3, 6), (9, 18), (20, 40), (5, 900)])
def test_the_studentised_range_is_that_of_scipy(rows, freedom):
    expected = stats.studentized_range.ppf(0.95, rows, freedom)
    assert critical_range(rows, freedom) == pytest.approx(expected, rel=3e-4)


def test_effects_of_seeds_are_taken_out_of_rows_that_share_them():
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1, (4, 3)) + rng.normal(0, 9, (1, 3))
    rest = values - values.mean(0) - values.mean(1)[:, None] + values.mean()
    spread, freedom = pooled_error(values.tolist(), blocked=True)
    assert freedom == 6
    assert spread == pytest.approx(math.sqrt((rest**2).sum() / 6))
    plain, freedom = pooled_error(values.tolist(), blocked=False)
    assert freedom == 8
    assert plain == pytest.approx(math.sqrt(values.var(1, ddof=1).mean()))


def test_rows_that_share_a_first_stage_are_tested_within_seeds():
    shared = np.random.default_rng(6).normal(0, 9, 3)
    noise = ((0.01, 0.02, 0), (1, 1.01, 1.03), (0.03, 0, 0.01))
    rows = [
        {i: Score("m", s + x, 9) for i, (s, x) in enumerate(zip(shared, own, strict=True))}
        for own in noise
    ]
    best, *others = rows[1], rows[0], rows[2]
    assert behind([best, *others], 1, [(0, 1, 2)] * 2) == [True, True]
    assert behind([best, *others], 1, [()] * 2) == [False, False]


def test_equal_rows_that_share_a_first_stage_are_seldom_called_worse():
    rng = np.random.default_rng(7)
    values = rng.normal(0, 9 * ITEM, (4_000, 1, 3)) + rng.normal(0.5, ITEM, (4_000, 9, 3))
    assert 0.02 < called_worse(values, (0, 1, 2)) < 0.05


def tables(root, metric="coherence"):
    (table,) = make_tables([Store(root)], metric, dataset="polymnist")
    return table


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_constant_picture_that_all_classifiers_call_the_same_is_flagged(tmp_path, seeds):
    for seed in range(seeds):
        write_run(tmp_path, "shala", seed, 0.809 + seed / 100, classes=1.0)
        write_run(tmp_path, "mmvae+", seed, 0.5 + seed / 100, classes=8.0)
        write_run(tmp_path, "mvae", seed, 0.4 + seed / 100, classes=5.0)
    for metric in ("coherence", "coherence/joint"):
        table = tables(tmp_path, metric)
        cells = {row.label: row.cells.get("coherence/joint") for row in table.rows}
        assert cells["shala"].mark == "collapsed"
        assert [cells[name].mark for name in ("mmvae+", "mvae")] == (
            ["best", "behind"] if seeds == 3 else ["", ""]
        )
        (note,) = [note for note in table.notes if "collapsed, not ranked" in note]
        assert note.endswith("of the data's 10 classes: shala 1.0.")
        value = f"{0.809 + (seeds - 1) / 200:.3f}"
        assert f"{value}†" in render([table], "text")
        assert f"{value}†" in render([table], "markdown")
        assert rf"{value}$^\dagger$" in render([table], "latex")


def test_other_columns_of_a_collapsed_model_keep_their_evidence(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "shala", seed, 0.9 + seed / 100, classes=4.9)
        write_run(tmp_path, "mmvae+", seed, 0.3 + seed / 100, classes=3.0 + seed / 100)
    cells = {row.label: row.cells for row in tables(tmp_path).rows if row.cells}
    assert cells["shala"]["coherence/joint-classes"].mark == "best"
    assert cells["mmvae+"]["coherence/joint-classes"].mark == "behind"
    assert {c["coherence/joint"].mark for c in cells.values()} == {"collapsed"}


def test_a_model_whose_samples_hardly_agree_is_not_best_where_all_others_have_collapsed(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "shala", seed, 0.08 + seed / 1000, classes=4.9)
        write_run(tmp_path, "mmvae+", seed, 0.003, classes=2.0)
    table = tables(tmp_path)
    assert {r.cells["coherence/joint"].mark for r in table.rows if r.cells} == {"collapsed"}
    assert any(note.endswith("mmvae+ 2.0 (few agree), shala 4.9.") for note in table.notes)


def test_the_first_result_with_a_metric_counts_here_as_in_the_cells(tmp_path):
    """Two evaluators of one run have the metric, one with four classes and one with nine."""
    marks = []
    for first, second in ((4.0, 9.0), (9.0, 4.0)):
        root = tmp_path / str(first)
        folder = write_run(root, "shala", 0, first / 10, classes=first)
        write_result(folder, second / 10, classes=second, finished=1)
        file = folder / "results" / "coherence-1.json"
        file.write_text(file.read_text().replace('"evaluator": "coherence"', '"evaluator": "x"'))
        (row,) = [row for row in tables(root).rows if row.cells]
        assert row.cells["coherence/joint"].mean == pytest.approx(first / 10)
        marks.append(row.cells["coherence/joint"].mark)
    assert marks == ["collapsed", ""]


def test_a_record_without_the_number_of_classes_is_ranked(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "shala", seed, 0.9 + seed / 100)
        write_run(tmp_path, "mmvae+", seed, 0.3 + seed / 100, classes=8.0)
    cells = {row.label: row.cells["coherence/joint"] for row in tables(tmp_path).rows if row.cells}
    assert [cells[name].mark for name in ("shala", "mmvae+")] == ["best", "behind"]


def test_values_that_no_prior_changes_are_tested_once(tmp_path):
    values = {
        "shala": [0.56, 0.6, 0.644],
        "mmvae+": [0.454, 0.494, 0.534],
        "mvae": [0.453, 0.493, 0.533],
    }
    for kind, (method, own) in itertools.product(("own", "gmm", "diffusion"), values.items()):
        for seed, value in enumerate(own):
            settings = {"prior.kind": kind}
            write_run(tmp_path, method, seed, value, name=kind, settings=settings)
    (rows,) = sides(np.array([list(values.values())]))
    assert behind(rows, 1, [()] * 2) == [True, True]
    assert not any(behind([row for row in rows for _ in range(3)], 1, [()] * 8))
    marks = {}
    for row in tables(tmp_path).rows:
        if row.cells:
            marks.setdefault(row.method, []).append(row.cells["coherence/joint"].mark)
    assert marks == {"shala": ["best"] * 3, "mmvae+": ["behind"] * 3, "mvae": ["behind"] * 3}
