"""Learning curves: from records to points, fits, a table and a figure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.records import write_run
from scipy import stats

from bench import main
from shalabench.analysis.learning import count_text, curves_of, fit_text, modalities_of
from shalabench.analysis.saturation import Law, _squares, budget, fit
from shalabench.analysis.tables import make_tables, render
from shalabench.api.errors import BenchError
from shalabench.records.frame import load
from shalabench.records.store import Store
from shalabench.report import build_report
from shalabench.report.paper import write_figures
from shalabench.report.progress import progress
from shalabench.report.sections import sections_of

TUPLES = (1e5, 3e5, 1e6, 2e6, 4e6)


@pytest.mark.parametrize(
    "law", [Law(0.05, 12.0, 0.4), Law(0.0, 30.0, 0.3), Law(0.2, 800.0, 0.8)], ids=str
)
def test_a_fit_recovers_the_law_and_the_tuples_that_an_error_needs(law):
    errors = [law.error(t) for t in TUPLES]
    found = fit(TUPLES, errors)
    assert found.exponent == pytest.approx(law.exponent, rel=0.01)
    assert found.floor == pytest.approx(law.floor, abs=0.005)
    target = law.error(2e7)
    needed = budget(TUPLES, errors, target)
    assert needed.tuples == pytest.approx(2e7, rel=0.1)
    assert needed.low <= needed.tuples <= needed.high
    assert needed.high < 1.2 * needed.low  # no noise, no interval
    assert math.isinf(found.tuples(found.floor))


def test_the_interval_of_noisy_errors_holds_what_they_were_made_with():
    law, hits = Law(0.05, 12.0, 0.4), 0
    for seed in range(30):
        noise = 1 + 0.03 * np.random.default_rng(seed).normal(size=len(TUPLES))
        needed = budget(TUPLES, [law.error(t) * x for t, x in zip(TUPLES, noise, strict=True)], 0.1)
        assert needed.low <= needed.high
        hits += needed.low <= law.tuples(0.1) <= needed.high
    assert hits >= 24  # of 30 intervals of 90 %


@pytest.mark.parametrize("points", [10, 40])
def test_the_interval_ends_where_the_squares_exceed_the_quantile_of_f(points):
    seen, target = np.geomspace(1e5, 4e6, points), 0.07
    noise = 1 + 0.03 * np.random.default_rng(0).normal(size=points)
    errors = (0.05 + 12 * seen**-0.4) * noise
    needed = budget(list(seen), list(errors), target)
    law, free = fit(list(seen), list(errors)), points - 3
    least = sum((law.error(t) / x - 1) ** 2 for t, x in zip(seen, errors, strict=True))
    bound = least * (1 + stats.f.ppf(0.9, 1, free) / free)
    step = 1e8 ** (1 / 399)  # between the numbers that are tried
    for inside, outside in ((needed.high, needed.high * step), (needed.low, needed.low / step)):
        assert _squares(seen, errors, inside, target) <= bound
        assert _squares(seen, errors, outside, target) > bound


def test_errors_that_do_not_fall_have_no_budget():
    assert math.isinf(budget(TUPLES, [0.3] * 5, 0.2).tuples)
    with pytest.raises(ValueError, match="too few"):
        fit(TUPLES[:3], [0.3, 0.2, 0.1])


@pytest.mark.parametrize(
    ("count", "text"),
    [(640, "640"), (3e4, "30k"), (99_999, "0.1M"), (1e5, "0.1M"), (2.96e6, "3M"), (4.2e7, "42M")],
)
def test_counts_have_two_digits(count, text):
    assert count_text(count) == text


def add(
    root, steps, value, kind="own", batch=32, seconds=100.0, model="shala", given=True, **changes
):
    """A run of some updates; `given` writes them as an override; `changes` are of its data."""
    changed = [f"model.steps={steps}"] if given else []
    settings = {"model.steps": steps, "model.batch_size": batch, "prior.kind": kind}
    settings |= {} if kind == "own" else {"prior.private": True}
    overrides = [*changed, *([] if kind == "own" else [f"prior.kind={kind}"])]
    name = f"{kind}-{steps}"
    folder = write_run(root, model, 0, value, settings=settings, overrides=overrides, name=name)
    trained = json.loads((folder / "trained.json").read_text())
    trained["provenance"] |= {"cpu_seconds": seconds, "seconds": seconds}
    (folder / "trained.json").write_text(json.dumps(trained | {"last": {"inference": {}}}))
    run = json.loads((folder / "run.json").read_text())
    run["data"] |= {"modalities": ["m0", "m1", "m2", "m3", "m4"], **changes}
    run["dataset"] = "polydigits" if "proxy_for" in changes else "polymnist"
    (folder / "run.json").write_text(json.dumps(run))


LAW = Law(0.02, 20.0, 0.4)


def of_law(tuples):
    return (1 - LAW.error(tuples)) ** 5


@pytest.fixture
def store(tmp_path):
    for steps in (3125, 9375, 31_250, 125_000):
        is_preset = steps == 31_250
        add(tmp_path, steps, of_law(32 * steps), seconds=steps / 2, given=not is_preset)
    for steps in (3125, 31_250):
        add(tmp_path, steps, 0.1 + of_law(32 * steps), kind="gmm", seconds=steps)
    return Store(tmp_path)


def test_rows_that_differ_in_length_alone_are_one_curve(store):
    (table,) = make_tables([store], "coherence/joint", dataset="polymnist")
    modalities = modalities_of(load([store]))
    own, fitted = sorted(
        curves_of(table.rows, "coherence/joint", lower=False, modalities=modalities),
        key=lambda curve: -len(curve.points),
    )
    assert (own.name, own.prior, fitted.name, fitted.prior) == ("shala", "own", "shala", "gmm")
    assert [p.tuples for p in own.points] == [100_000, 300_000, 1_000_000, 4_000_000]
    assert [round(p.hours * 3600) for p in own.points] == [1562, 4688, 15_625, 62_500]
    assert own.law.exponent == pytest.approx(LAW.exponent, rel=0.01)  # in the error of one of five
    assert own.budget(0.7).tuples == pytest.approx(LAW.tuples(1 - 0.7**0.2), rel=0.1)
    assert fitted.law is None
    assert "is not reached" in fit_text(own, "0.95")
    assert "before the first point" in fit_text(own, "0.003")
    assert fit_text(fitted, "0.815") == ""


def test_the_table_by_tuples_has_a_column_for_each_and_the_predicted_budget(store):
    (table,) = make_tables([store], "coherence/joint", dataset="polymnist", by="tuples")
    names = [f"coherence/joint {text}" for text in ("0.1M", "0.3M", "1M", "4M")]
    assert list(table.metrics) == names
    rows = {row.label: row for row in table.rows}
    assert set(rows) == {"shala", "shala [prior.kind=gmm]"}
    assert rows["shala"].cells[names[3]].mean == pytest.approx(of_law(4_000_000))
    assert set(rows["shala [prior.kind=gmm]"].cells) == {names[0], names[2]}
    (law,) = [note for note in table.notes if "tuples^-0.4" in note]
    assert "the published 0.815 needs" in law
    assert "gmm" not in law
    assert "4M" in render([table], "text")


def test_the_figure_shows_every_curve_and_its_law(store, tmp_path):
    (section,) = sections_of(load([store]))
    drawing = progress(section)
    left, right = drawing.figure.axes
    assert left.get_xscale() == right.get_xscale() == "log"
    drawn = [list(one.get_xdata()) for one in left.get_lines()]
    assert [100_000, 300_000, 1_000_000, 4_000_000] in drawn
    assert [100_000, 1_000_000] in drawn
    assert any(len(x) == 41 and x[-1] == pytest.approx(1.6e7) for x in drawn)
    assert "tuples^-0.4" in drawing.alt
    assert "(mixture prior)" in drawing.alt
    assert "other data" not in drawing.alt
    assert "published" in [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    files, _ = write_figures("progress", [store], tmp_path / "out")
    assert {f.name for f in files} == {
        f"progress-polymnist-quick.{form}" for form in ("png", "svg", "pdf")
    }
    build_report([store], tmp_path / "report")
    page = (tmp_path / "report" / "polymnist-quick.html").read_text()
    assert 'id="progress"' in page
    assert "tuples^-0.4" in page
    assert "#progress" in (tmp_path / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    "changes", [{"deviation": "half of it"}, {"proxy_for": "polymnist"}], ids=["deviation", "proxy"]
)
def test_published_values_of_other_data_are_called_so(tmp_path, changes):
    for steps in (3125, 9375, 31_250, 125_000):
        add(tmp_path, steps, of_law(32 * steps), **changes)
    store = Store(tmp_path)
    (table,) = make_tables([store], "coherence/joint", by="tuples")
    (law,) = [note for note in table.notes if "tuples^-0.4" in note]
    assert "0.815, published on other data, needs" in law
    assert "the published" not in law
    (section,) = sections_of(load([store]))
    drawing = progress(section)
    assert "The published values (diamonds) are of other data" in drawing.alt
    assert "0.815, published on other data, needs" in drawing.alt
    names = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert names == ["shala", "published on other data"]


def test_the_commands_show_them(store, tmp_path):
    common = ["--store", str(store.root), "--dataset", "polymnist"]
    shown = CliRunner().invoke(
        main, ["table", "--metric", "coherence/joint", "--by", "tuples", *common]
    )
    assert shown.exit_code == 0, shown.output
    assert "tuples^-0.4" in shown.output
    out = str(tmp_path / "out")
    drawn = CliRunner().invoke(main, ["figure", "progress", "--out", out, *common])
    assert drawn.exit_code == 0, drawn.output
    assert "progress-polymnist-quick.svg" in drawn.output


def test_one_length_is_no_figure(tmp_path):
    add(tmp_path, 3125, 0.2)
    with pytest.raises(BenchError, match="progress"):
        write_figures("progress", [Store(tmp_path)], tmp_path / "out")


def test_labels_leave_out_the_settings_that_all_methods_share():
    from shalabench.report.progress import _labels

    shared = " [model.optimiser.schedule=wsd]"
    colours = {f"mvae{shared}": "r", f"mvtcae [model.latent_dim=8]{shared}": "b"}
    names = list(_labels(colours, {"own", "gmm"}))
    assert names[0] == "mvae"
    assert "latent_dim" in names[1]
    assert "schedule" not in names[1]
    assert names[2:] == ["own prior", "mixture prior"]
