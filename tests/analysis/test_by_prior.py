"""Tables and the figure of methods by prior."""

from __future__ import annotations

import json

import pytest
from helpers.records import write_run, write_views

from shalabench.analysis.by_prior import merge_priors
from shalabench.analysis.rows import Cell, Row
from shalabench.analysis.tables import make_tables, render
from shalabench.api.errors import BenchError
from shalabench.records.frame import load
from shalabench.records.store import Store
from shalabench.report import build_report, charts
from shalabench.report.glance import glances
from shalabench.report.paper import write_figures
from shalabench.report.sections import sections_of

OWN = {"a": (0.2, 0.3, 0.4), "b": (0.5, 0.6, 0.7)}
FITTED = {"gmm": 0.1, "diffusion": 0.2}  # more than with the method's own


@pytest.fixture
def store(tmp_path):
    for model, values in OWN.items():
        for seed, value in enumerate(values):
            write_run(tmp_path, model, seed, value, settings={"prior.kind": "own"})
            for kind, gain in FITTED.items():
                given = {"prior.kind": kind, "prior.private": True}
                more = {"settings": given, "overrides": [f"prior.kind={kind}"], "name": kind}
                write_run(tmp_path, model, seed, value + gain, **more)
    return Store(tmp_path)


def test_a_method_has_one_row_and_a_column_for_each_prior(store):
    (table,) = make_tables([store], "coherence", dataset="polymnist", by="prior")
    assert list(table.metrics) == [
        "coherence/joint own",
        "coherence/joint mixture",
        "coherence/joint diffusion",
    ]
    means = {r.label: [round(c.mean, 6) for c in r.cells.values()] for r in table.rows}
    assert means == {"a": [0.3, 0.4, 0.5], "b": [0.6, 0.7, 0.8]}
    assert all(cell.seeds == 3 for row in table.rows for cell in row.cells.values())
    assert not any(row.published or row.is_variant for row in table.rows)
    marks = {row.label: [cell.mark for cell in row.cells.values()] for row in table.rows}
    assert marks["b"] == ["best"] * 3  # each column has a best of its own
    assert all(len(line) <= 80 for line in render([table], "text").splitlines()[:6])


def test_other_settings_keep_rows_apart(tmp_path, store):
    for kind in ("own", "gmm"):
        more = {"settings": {"prior.kind": kind, "model.x": 2}, "name": f"x{kind}"}
        overrides = ["model.x=2", *([f"prior.kind={kind}"] if kind == "gmm" else [])]
        write_run(tmp_path, "a", 0, 0.9, overrides=overrides, x=2, **more)
    (table,) = make_tables([store], "coherence", dataset="polymnist", by="prior")
    labels = {row.label: row.is_variant for row in table.rows}
    assert set(labels) == {"a", "b", "a [model.x=2]"}
    assert labels["a [model.x=2]"]


def test_two_priors_of_a_kind_have_two_rows(tmp_path, store):
    given = {"prior.kind": "gmm", "prior.private": True, "prior.components": 3}
    overrides = ["prior.kind=gmm", "prior.components=3"]
    write_run(tmp_path, "a", 0, 0.9, settings=given, overrides=overrides, name="three")
    (table,) = make_tables([store], "coherence", dataset="polymnist", by="prior")
    rows = {row.label: row.cells for row in table.rows}
    assert set(rows) == {"a", "b", "a [prior.components=3]"}
    assert rows["a"]["coherence/joint mixture"].seeds == 3
    assert list(rows["a [prior.components=3]"]) == ["coherence/joint mixture"]


def test_other_settings_of_an_evaluator_keep_no_priors_apart(tmp_path):
    write_run(tmp_path, "a", 0, 0.2, settings={"prior.kind": "own"})
    given = {"prior.kind": "gmm", "evaluators.coherence.later": 1}
    write_run(tmp_path, "a", 0, 0.5, settings=given, overrides=["prior.kind=gmm"], name="gmm")
    (table,) = make_tables([Store(tmp_path)], "coherence", dataset="polymnist", by="prior")
    assert [len(row.cells) for row in table.rows] == [2]


def test_a_dataset_without_joint_samples_hides_no_other(tmp_path, store):
    write_views(tmp_path, "a", 20.0)
    (table,) = make_tables([store], "coherence", by="prior")
    assert table.dataset == "polymnist"
    with pytest.raises(BenchError, match="psnr"):
        make_tables([store], "psnr", by="prior")


def test_a_collapse_is_that_of_one_prior(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "a", seed, 0.9, classes=1.2)
        more = {"settings": {"prior.kind": "gmm"}, "overrides": ["prior.kind=gmm"], "name": "g"}
        write_run(tmp_path, "a", seed, 0.5, classes=9.0, **more)
        write_run(tmp_path, "b", seed, 0.1, classes=9.0)
    (table,) = make_tables([Store(tmp_path)], "coherence", dataset="polymnist", by="prior")
    cells = {row.label: row.cells for row in table.rows}
    assert cells["a"]["coherence/joint own"].mark == "collapsed"
    assert cells["a"]["coherence/joint mixture"].mark != "collapsed"


def test_what_no_prior_changes_is_refused(store):
    with pytest.raises(BenchError, match="joint"):
        make_tables([store], "classifier/accuracy", dataset="polymnist", by="prior")


def test_runs_with_fitted_priors_stay_rows_without_the_option(store):
    (table,) = make_tables([store], "coherence", dataset="polymnist")
    assert {row.label for row in table.rows if row.cells} == {
        f"{model}{end}"
        for model in OWN
        for end in ("", " [prior.kind=gmm]", " [prior.kind=diffusion]")
    }


def test_the_figure_names_every_value(store, tmp_path):
    from shalabench.report.prior_axis import by_prior
    from shalabench.report.sections import sections_of

    (section,) = sections_of(load([store]))
    drawing = by_prior(section)
    assert "a: own 0.300, mixture 0.400, diffusion 0.500" in drawing.alt
    files, _ = write_figures("priors", [store], tmp_path / "out")
    assert {file.suffix for file in files} == {".svg", ".pdf", ".png"}


def test_the_report_has_the_figure(store, tmp_path):
    build_report([store], tmp_path / "out")
    page = (tmp_path / "out" / "polymnist-quick.html").read_text()
    assert 'id="priors"' in page
    assert "a: own 0.300, mixture 0.400, diffusion 0.500" in page


def test_one_kind_of_prior_is_no_figure(tmp_path):
    for model in OWN:
        write_run(tmp_path, model, 0, 0.5)
    with pytest.raises(BenchError, match="priors"):
        write_figures("priors", [Store(tmp_path)], tmp_path / "out")


def test_cross_coherence_has_one_column_after_those_of_the_priors(store):
    """It needs no prior. Where a terminal is narrow, the joint values stay."""
    for file in store.root.glob("*/results/coherence-0.json"):
        result = json.loads(file.read_text())
        metric = {"name": "coherence/cross", "meaning": "m", "direction": "higher", "digits": 3}
        score = {"metric": "coherence/cross", "value": 0.75, "n": 1000, "stderr": 0.01}
        result["metrics"].append(metric)
        result["scores"].append(result["scores"][0] | score)
        file.write_text(json.dumps(result))
    (table,) = make_tables([store], "coherence", dataset="polymnist", by="prior")
    assert list(table.metrics)[3:] == ["coherence/cross"]
    assert {row.cells["coherence/cross"].mean for row in table.rows} == {0.75}
    heads = render([table], "text", width=70).splitlines()[2]
    assert " ".join(heads.split()) == "method joint own joint mixture joint diffusion"


def test_a_report_shows_once_what_no_prior_changes(store):
    for file in store.root.glob("*/results/coherence-0.json"):
        result = json.loads(file.read_text())
        metric = {"name": "coherence/cross", "meaning": "m", "direction": "higher", "digits": 3}
        result["metrics"].append(metric | {"headline": True})
        value = 0.6 + 0.1 * ("b-" in str(file.parent.parent.name))
        result["scores"].append(result["scores"][0] | {"metric": "coherence/cross", "value": value})
        file.write_text(json.dumps(result))
    for file in store.root.glob("*/run.json"):  # as `--set prior.kind=own` names them
        run = json.loads(file.read_text())
        named = [f"prior.kind={run['settings']['prior.kind']}"]
        file.write_text(json.dumps(run | {"overrides": named}))
    (section,) = sections_of(load([store]))
    for metric in ("coherence/joint", "coherence/cross"):
        assert len(section.ranked(metric)) == 6
        assert len(section.ranked(metric, plain=True)) == 2
    best = [row.label for row, _ in section.ranked("coherence/joint", plain=True)]
    assert best == ["b [prior.kind=diffusion]", "a [prior.kind=diffusion]"]
    (cross,) = [glance for glance in glances(section) if glance.metric == "coherence/cross"]
    assert (cross.best.label, cross.next.method, cross.is_tested) == (
        "b [prior.kind=own]",
        "a",
        True,
    )


def test_a_page_has_a_row_for_each_network_and_a_column_for_each_prior(store, tmp_path):
    (section,) = sections_of(load([store]))
    shown = section.by_network
    assert [label for label, _ in shown.rows] == ["a", "b"]
    assert {len(own.runs) for _, own in shown.rows} == {9}
    assert shown.by_network is shown
    assert shown.headlines() == [f"coherence/joint {k}" for k in ("own", "mixture", "diffusion")]
    assert [g.best.label for g in glances(shown)] == ["b", "b", "b"]
    build_report([store], tmp_path / "out")
    page = (tmp_path / "out" / "polymnist-quick.html").read_text()
    heads = [f"joint {kind}" for kind in ("own", "mixture", "diffusion")]
    assert all(f">{head}</th>" in page for head in heads)
    assert page.count('<th scope="row"><a href="runs/') == 2  # of the only table


def test_published_values_stand_beside_the_own_prior():
    metrics = {name: ("higher", 3, "") for name in ("coherence/joint", "coherence/cross", "kid")}

    def row(kind, joint):
        cells = {"coherence/joint": Cell(joint, 0.1, 3, 9), "coherence/cross": Cell(0.5, 0.1, 3, 9)}
        published = {"coherence/joint": "0.8", "coherence/cross": "0.9", "kid": "3"}
        row = Row(f"a [prior.kind={kind}]", "a", True, settings={"prior.kind": kind})
        row.cells, row.published = cells, published
        return row

    (merged,), columns = merge_priors([row("gmm", 0.3), row("own", 0.2)], metrics)
    assert list(columns) == [
        "coherence/joint own",
        "coherence/joint mixture",
        "coherence/cross",
        "kid",
    ]
    assert merged.label == "a"
    assert {name: cell.mean for name, cell in merged.cells.items()} == {
        "coherence/joint own": 0.2,
        "coherence/joint mixture": 0.3,
        "coherence/cross": 0.5,
    }
    assert merged.published == {"coherence/joint own": "0.8", "coherence/cross": "0.9", "kid": "3"}


def test_a_metric_has_columns_if_a_prior_changes_it_and_is_shown_if_one_prior_has_it():
    metrics = {"latents/gap": ("lower", 3, ""), "latents/probe": ("higher", 3, "")}
    own = Row("a", "a", cells={"latents/gap": Cell(0.2, 0.1, 3, 9)})
    fitted = Row("a [prior.kind=gmm]", "a", True, settings={"prior.kind": "gmm"})
    fitted.cells = {"latents/gap": Cell(0.1, 0.1, 3, 9), "latents/probe": Cell(0.9, 0.1, 3, 9)}
    (merged,), columns = merge_priors([own, fitted], metrics)
    assert list(columns) == ["latents/gap own", "latents/gap mixture", "latents/probe"]
    assert merged.cells["latents/probe"].mean == 0.9
    rows, same = merge_priors([own], metrics)
    assert (rows, same) == ([own], metrics)


def test_scatter_plots_name_networks_once(store):
    for place, file in enumerate(sorted(store.root.glob("*/trained.json"))):
        trained = json.loads(file.read_text())
        trained["provenance"]["seconds"] = 60.0 + place
        file.write_text(json.dumps(trained))
    (section,) = sections_of(load([store]))
    drawing = charts.cost(section, "coherence/joint")
    axes = drawing.figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["a", "b"]
    assert sorted(line.get_marker() for line in axes.lines) == sorted("os^" * 2)
    assert "a mixture at" in drawing.alt


def test_a_column_of_one_row_has_no_best(tmp_path):
    """Though the row is the best of all priors together."""
    for seed, value in enumerate((0.1, 0.2, 0.3)):
        for model, kinds in (("a", ("own",)), ("b", ("own", "gmm"))):
            for kind in kinds:
                more = {"settings": {"prior.kind": kind}, "overrides": [f"prior.kind={kind}"]}
                write_run(tmp_path, model, seed, value + 0.6 * (kind == "gmm"), name=kind, **more)
    (section,) = sections_of(load([Store(tmp_path)]))
    (best, cell), *_ = section.ranked("coherence/joint")
    assert (best.label, cell.mark) == ("b [prior.kind=gmm]", "best")
    ((row, cell),) = section.by_network.ranked("coherence/joint mixture")
    assert (row.label, cell.mark) == ("b", "")
