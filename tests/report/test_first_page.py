"""The first page: order, marks and samples; how pages load, sort and are announced."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from click.testing import CliRunner
from helpers.records import write_run
from helpers.reports import Page, add_parts, built
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from bench import main
from shalabench.api import Score
from shalabench.execute import progress as showing
from shalabench.records.frame import load
from shalabench.records.store import Store
from shalabench.report import build_report, charts
from shalabench.report.losses import (
    _ticks,
    main_losses,
    readings,
    run_losses,
    small_losses,
    without_priors,
)
from shalabench.report.sections import sections_of


def heads(file):
    """The heads of the first table's columns."""
    table = file.read_text().split('class="sortable matrix"')[1]
    return re.findall(r"<th scope=\"col\"[^>]*><b>([^<]*)</b>", table)


def rows(file):
    """By method: the texts of the first table's cells."""
    table = file.read_text().split('class="sortable matrix"')[1].split("</table>")[0]
    lines = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.S)
    return {name: re.findall(r"<td[^>]*>(.*?)</td>", cells, re.S) for name, cells in lines}


def test_polymnist_comes_first_then_by_name(tmp_path):
    for dataset in ("birds", "zoo", "polymnist", "mst"):
        write_run(tmp_path / "store", "shala", 0, 0.5, name=dataset, dataset=dataset)
    files = built(Store(tmp_path / "store"), tmp_path / "out")
    assert heads(files["index.html"]) == ["polymnist", "birds", "mst", "zoo"]
    links = [a["href"] for a in Page(files["index.html"]).having("a") if "href" in a]
    pages = [link for link in links if link.endswith("quick.html")]
    assert pages == [f"{n}-quick.html" for n in ("polymnist", "birds", "mst", "zoo")]


def test_methods_are_in_the_order_of_the_first_column_and_gaps_are_empty(tmp_path):
    for model, joint in (("a", 0.2), ("b", 0.6)):
        write_run(tmp_path / "store", model, 0, joint)
    write_run(tmp_path / "store", "c", 0, 0.9, dataset="birds")
    found = rows(built(Store(tmp_path / "store"), tmp_path / "out")["index.html"])
    assert list(found) == ["b", "a", "c"]
    assert found["c"][0] == "–"
    assert "0.900" in found["c"][1]


@pytest.mark.parametrize(("seeds", "is_tested"), [(2, False), (3, True)])
def test_the_best_is_marked_from_three_seeds_a_side_only(seeds, is_tested, tmp_path):
    for seed in range(3):
        write_run(tmp_path / "store", "shala", seed, 0.8 + seed / 100)
    for seed in range(seeds):
        write_run(tmp_path / "store", "mvae", seed, 0.3 + seed / 100)
    index = built(Store(tmp_path / "store"), tmp_path / "out")["index.html"]
    found = rows(index)
    assert ('class="best"' in found["shala"][0]) == is_tested
    assert ("0.810*" in found["shala"][0]) == is_tested
    assert 'class="best"' not in found["mvae"][0]
    assert ("<small>not tested</small>" in index.read_text()) != is_tested


def test_pictures_are_lazy_and_have_their_sizes(store, tmp_path):
    files = built(store, tmp_path / "out")
    found = []
    for name, file in files.items():
        found += Page(file).having("img") if name.endswith(".html") else []
    assert len(found) >= 10
    for image in found:
        assert (image["loading"], image["width"], image["height"]) == ("lazy", "8", "8")


def test_a_picture_that_does_not_read_has_no_size_and_stops_nothing(store, tmp_path):
    for file in store.root.rglob("*.png"):
        file.write_bytes(b"no picture")
    images = Page(built(store, tmp_path / "out")["index.html"]).having("img")
    assert images
    assert all("width" not in image for image in images)


def test_the_strip_shows_the_best_that_have_not_collapsed(tmp_path):
    values = {"a": 0.2, "b": 0.9, "c": 0.5, "d": 0.4, "e": 0.3}
    for model, joint in values.items():
        classes = {"classes": 1.0 if model == "b" else 8.0}
        add_parts(write_run(tmp_path / "store", model, 0, joint, **classes))
    text = built(Store(tmp_path / "store"), tmp_path / "out")["index.html"].read_text()
    strip = text.split('class="strip"')[1].split("</div>")[0]
    assert re.findall(r"<figcaption>([^<]*)<", strip) == [
        "c, 0.500",
        "d, 0.400",
        "e, 0.300",
        "a, 0.200",
    ]


def test_pages_sort_by_one_embedded_script_and_ask_for_nothing(store, tmp_path):
    files = built(store, tmp_path / "out")
    for name, file in files.items():
        if not name.endswith((".html", ".css")):
            continue
        text = file.read_text()
        assert "@import" not in text
        addresses = set(re.findall(r"https?://[^\s\"'<]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        scripts = Page(file).having("script") if name.endswith(".html") else []
        assert len(scripts) == (name.endswith(".html") and not name.startswith("runs/"))
        assert all("src" not in script for script in scripts)
    index = Page(files["index.html"])
    assert "aria-sort" in index.text
    heads = [a for a in index.having("th") if "data-first" in a]
    assert [a["data-first"] for a in heads] == ["descending"]
    values = [a["data-value"] for a in index.having("td") if "data-value" in a]
    assert sorted(map(float, values)) == pytest.approx([0.34, 0.82])


def test_headings_are_in_order(store, tmp_path):
    write_run(store.root, "mvae", 0, 0, failed={"status": "failed", "reason": "no memory"})
    for name, file in built(store, tmp_path / "out").items():
        if name.endswith(".html"):
            levels = [int(tag[1]) for tag, _ in Page(file).elements if re.fullmatch("h[1-6]", tag)]
            assert levels[0] == 1
            steps = [b - a for a, b in itertools.pairwise(levels)]
            assert max(steps) <= 1, name
            assert levels.count(1) == 1


def test_progress_is_called_for_every_page_and_shown_on_stderr(store, tmp_path, monkeypatch):
    steps = []
    build_report([store], tmp_path / "a", step=lambda *step: steps.append(step))
    assert steps == [
        ("pages of datasets", 1, 1),
        *(("pages of runs", number, 6) for number in range(1, 7)),
    ]
    monkeypatch.setattr(showing, "_EVERY", 0.0)
    done = CliRunner().invoke(
        main, ["report", str(tmp_path / "b"), "--store", str(store.root), "--json"]
    )
    assert done.exit_code == 0, done.output
    assert "report: pages of runs 6/6" in done.stderr
    assert done.stdout.count("\n") == 1


def test_figures_are_linked_in_three_forms_where_asked_for(store, tmp_path):
    build_report([store], tmp_path / "out", figures=True)
    page = Page(tmp_path / "out" / "polymnist-quick.html")
    links = [a["href"] for a in page.having("a") if a.get("href", "").startswith("figures/")]
    assert len(links) % 3 == 0
    assert len(links) >= 6
    for link in links:
        assert (tmp_path / "out" / link).stat().st_size > 1000
    with Image.open(next((tmp_path / "out" / "figures").glob("*.png"))) as picture:
        assert picture.width > 800


@pytest.mark.parametrize("kind", ["tradeoff", "cost", "curves", "heatmap", "angles", "dots"])
def test_no_label_of_a_figure_is_cut_off(kind, store, tmp_path):
    add_parts(write_run(store.root, "a-method-with-a-long-name", 0, 0.5))
    (section,) = sections_of(load([store]))
    names = section.headlines()
    draw = getattr(charts, kind)
    drawing = draw(section, names[0]) if kind in ("cost", "dots") else draw(section)
    figure = drawing.figure
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox(FigureCanvasAgg(figure).get_renderer())  # of all that is drawn
    assert box.x0 >= -0.02, kind
    assert box.y0 >= -0.02, kind
    assert box.x1 <= width + 0.02, kind
    assert box.y1 <= height + 0.02, kind
    assert any(axes.get_xlabel() for axes in figure.axes) or figure.get_supxlabel()


def test_losses_of_a_run_have_ticks_and_lines_where_they_belong(store):
    folder = next(run for run in store.runs() if run.path.name == "shala-0-")
    stages = readings(folder)
    assert stages == {
        "fit": {
            "loss": [(s, 100 / s) for s in range(1, 9)],
            "kl": [(s, s) for s in range(1, 9)],
        }
    }
    title, svg = run_losses("a<b", stages)
    assert title == "Losses by update"
    assert "a&lt;b" in svg
    first, second = re.findall(r'polyline points="([^"]*)"', svg)
    loss = [tuple(map(float, point.split(","))) for point in first.split()]
    kl = [tuple(map(float, point.split(","))) for point in second.split()]
    assert [x for x, _ in loss] == [x for x, _ in kl]
    # 100 at the top and 1 at the bottom of a log scale; 10 would be half way.
    top, bottom = loss[0][1], kl[0][1]
    assert loss[-1][1] == pytest.approx(bottom - (bottom - top) * 1.0969 / 2, abs=0.2)
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"stage fit (log scale)", "1", "10", "100", "update", "loss", "kl"} <= set(labels)
    assert run_losses("none", {}) is None
    assert run_losses("reused", {"vae": {}}) is None
    assert "to update 8" in small_losses("x", [stages])


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.03, 0.84, [0.2, 0.4, 0.6, 0.8]),
        (0.1, 0.9, [0.2, 0.4, 0.6, 0.8]),
        (0, 20_000, [0, 5000, 10_000, 15_000, 20_000]),
        (-1.9, 1.9, [-1, 0, 1]),
        (4.9, 14.9, [6, 8, 10, 12, 14]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_three_at_least_and_round(low, high, ticks):
    assert _ticks(low, high) == pytest.approx(ticks)


def test_runs_of_the_gate_are_no_column_and_stand_last(tmp_path):
    for preset in ("gate", "quick"):
        folder = write_run(tmp_path / "store", "shala", 0, 0.5, name=preset)
        run = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(run | {"preset": preset}))
    index = built(Store(tmp_path / "store"), tmp_path / "out")["index.html"]
    assert len(heads(index)) == 1
    links = re.findall(r'<th scope="row"><a href="([^"]*)">', index.read_text())
    assert links == ["polymnist-quick.html", "polymnist-gate.html"]


def test_metrics_keep_the_order_of_their_records(tmp_path):
    folder = write_run(tmp_path / "store", "shala", 0, 0.5)
    file = next((folder / "results").glob("*.json"))
    result = json.loads(file.read_text())
    names = [f"m{n}/joint" for n in (3, 1, 4, 9, 2)]
    facts = {"direction": "higher", "digits": 3, "meaning": "made up"}
    result["metrics"] = [{"name": name, **facts} for name in names]
    result["scores"] = [Score(name, 0.5, 10, 0.1).to_json() for name in names]
    file.write_text(json.dumps(result))
    (section,) = sections_of(load([Store(tmp_path / "store")]))
    assert [next(iter(table.metrics)) for table in section.tables] == names


def test_priors_are_called_by_words(tmp_path):
    for kind, joint in (("own", 0.2), ("gmm", 0.6), ("diffusion", 0.4)):
        given = {"settings": {"prior.kind": kind}, "overrides": [f"prior.kind={kind}"]}
        write_run(tmp_path / "store", "mvae", 0, joint, name=kind, **given)
    files = built(Store(tmp_path / "store"), tmp_path / "out")
    assert rows(files["index.html"])["mvae"][0].endswith("<small>mixture</small>")
    text = Page(files["polymnist-quick.html"]).text
    assert all(f"mvae {words}" in text for words in ("own prior", "mixture", "diffusion prior"))


def test_presets_with_dials_are_no_column_beside_the_preset(tmp_path):
    folders = [
        write_run(tmp_path / "store", "mvae", 0, 0.5, name=name, dataset=dataset)
        for name, dataset in (("plain", "polymnist"), ("a", "polymnist"), ("b", "birds"))
    ]
    for folder in folders[1:]:
        file = folder / "run.json"
        file.write_text(file.read_text().replace('"quick"', '"quick-dials"'))
    files = built(Store(tmp_path / "store"), tmp_path / "out")
    assert heads(files["index.html"]) == ["polymnist", "birds"]
    assert "polymnist-quick-dials.html" in files


def test_losses_of_reused_stages_and_fitted_priors_take_no_colour_of_others():
    terms = {"loss": [(1, 2.0), (2, 1.0)]}
    run = {"inference": {}, "prior": terms, "fitted-diffusion": terms}
    assert [number for number, *_ in main_losses([without_priors(run)])] == [1]
    assert without_priors({"vae": {}, "fitted-diffusion": terms}) == {}
