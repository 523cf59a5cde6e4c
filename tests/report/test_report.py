"""The report, from made-up records: nothing hidden, nothing mixed, one script that sorts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.records import write_result, write_run, write_views
from helpers.reports import Page, add_parts, built
from PIL import Image

from bench import main
from shalabench import report
from shalabench.analysis.tables import make_tables, render
from shalabench.api import BenchError
from shalabench.records.frame import load
from shalabench.records.store import Store
from shalabench.report import build_report, charts
from shalabench.report.matrices import by_attribute
from shalabench.report.sections import sections_of

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&$_%"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def page(out, name="index.html"):
    return Page(out / name)


def run_page(out, start):
    return Page(next((out / "runs").glob(f"{start}-*.html")))


def test_first_page_says_which_is_best_by_how_much_how_sure_and_against_the_paper(store, tmp_path):
    build_report([store], tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "shala 0.820 ± 0.012" in text
    assert "+0.480 over mmvae+" in text
    assert "95 %: +0.408 to +0.552" in text
    assert "Significantinterval over 3 and 3 seeds" in text
    assert "0.815 for shala" in text
    assert "not significantly different" in text  # .820 +- .012, published .815
    assert "10 min" in text


def test_same_records_give_the_same_bytes(store, tmp_path):
    first, second = built(store, tmp_path / "a"), built(store, tmp_path / "b")
    assert first.keys() == second.keys()
    assert [n for n in first if first[n].read_bytes() != second[n].read_bytes()] == []


def test_names_with_markup_stay_text(tmp_path):
    folder = write_run(tmp_path / "store", "evil", 0, 0.5, dataset=HOSTILE, overrides=[HOSTILE])
    run = json.loads((folder / "run.json").read_text()) | {"model": HOSTILE, "paper": HOSTILE}
    run["settings"][HOSTILE] = HOSTILE
    (folder / "run.json").write_text(json.dumps(run))
    add_parts(folder)
    write_run(tmp_path / "store", HOSTILE.replace("/", ""), 1, 0.4, dataset=HOSTILE)
    files = built(Store(tmp_path / "store"), tmp_path / "out")
    pages = [file for name, file in files.items() if name.endswith(".html")]
    assert len(pages) == 4
    script = (Path(report.__file__).parent / "templates" / "sort.js").read_text()
    for file in pages:
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", file.read_text(), re.S | re.I)
        assert [text.strip() for text in scripts] in ([], [script.strip()])
    pages = list(map(Page, pages))
    for found in pages:
        assert len(found.having("script")) <= 1
        assert not any("onerror" in attributes for _, attributes in found.elements)
    assert any(HOSTILE in found.text for found in pages)


def test_no_link_is_dead_and_none_leaves_the_folder(store, tmp_path):
    files = built(store, tmp_path / "out")
    links = 0
    for name, file in files.items():
        for attributes in Page(file).having("a", "img", "link") if name.endswith("html") else ():
            target = attributes.get("href") or attributes.get("src")
            path, _, anchor = target.partition("#")
            if target == "data:,":
                continue
            links += 1
            assert "://" not in target
            aim = (file.parent / path).resolve() if path else file
            assert aim.is_relative_to(tmp_path / "out")
            assert aim.is_file(), target
            if anchor:
                assert anchor in {a.get("id") for _, a in Page(aim).elements}, target
    assert links > 30


def test_every_picture_has_words(store, tmp_path):
    pictures = []
    for name, file in built(store, tmp_path / "out").items():
        if name.endswith(".html"):
            pictures += [a.get("alt") for a in Page(file).having("img")]
            pictures += [a.get("aria-label") for a in Page(file).having("svg")]
    assert len(pictures) > 15
    assert all(words and len(words) > 20 for words in pictures)


def test_broken_foreign_and_double_records_are_named_and_counted(store, tmp_path):
    for name, content in (("broken", "{"), ("foreign", '{"run": 1}'), ("list", "[]")):
        (store.root / name).mkdir()
        (store.root / name / "run.json").write_text(content)
    shutil.copytree(store.root / "shala-0-", store.root / "shala-0-copy")
    result = next((store.root / "mmvae+-0-" / "results").glob("*.json"))
    (result.parent / "half.json").write_text(result.read_text()[:100])
    (result.parent / "nan.json").write_text(result.read_text().replace("0.3,", "NaN,"))
    build_report([store], tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "6 records left out" in text
    for told in (
        "broken unreadable",
        "foreign another schema",
        "list unreadable",
        "mmvae+-0-/results/half.json unreadable",
        "mmvae+-0-/results/nan.json another schema",
        "shala-0- duplicate",
    ):
        assert told in text
    assert "6 runs of 2 methods" in text
    assert "0.820 ± 0.012" in text


def test_figures_of_two_classifiers_are_never_averaged(tmp_path):
    for seed, (value, judge) in enumerate(((0.8, "one"), (0.4, "two"), (0.42, "two"))):
        write_run(tmp_path / "store", "shala", seed, value, judge=judge)
    files = built(Store(tmp_path / "store"), tmp_path / "out")
    text = page(tmp_path / "out").text
    assert len([name for name in files if "/" not in name and name.endswith("html")]) == 3
    assert "classifiers one" in text
    assert "classifiers two" in text
    assert "0.410" in text
    assert "0.540" not in text
    assert "0.600" not in text


def test_runs_of_other_code_are_left_out_of_the_row_by_name(tmp_path):
    for seed, code in enumerate(("new", "new", "old")):
        write_run(tmp_path / "store", "shala", seed, (0.8, 0.82, 0.2)[seed], source=code)
    built(Store(tmp_path / "store"), tmp_path / "out")
    text = page(tmp_path / "out", "polymnist-quick.html").text
    assert "differ in their source code" in text
    assert "shala-2-" in text
    assert "0.810" in text


def test_printed_figures_of_other_data_stand_beside_and_are_not_compared(tmp_path):
    words = "a tenth of the published images"
    for seed, joint in enumerate((0.30, 0.32)):
        write_run(tmp_path / "store", "shala", seed, joint, deviation=words)
    built(Store(tmp_path / "store"), tmp_path / "out")
    index = page(tmp_path / "out")
    first = " ".join(index.text.split())
    assert "0.815 for shala" in first
    assert "other data, not compared" in first
    assert [e.get("title") for e in index.having("span") if e.get("title")] == [words]
    assert " here: " not in first
    own = page(tmp_path / "out", "polymnist-quick.html")
    assert f"so no gap is shown: {words}" in own.text
    assert not [e for e in own.having("td") if {"below", "above"} & {*e.get("class", "").split()}]


def test_the_first_page_ranks_presets_and_names_a_variant_that_beats_them(tmp_path):
    for model, joint in (("shala", 0.5), ("mmvae+", 0.4)):
        write_run(tmp_path / "store", model, 0, joint)
    write_run(tmp_path / "store", "mmvae+", 0, 0.7, name="v", overrides=["model.x=9"], x=9)
    write_run(tmp_path / "store", "cmvae", 0, 0.1, name="w", overrides=["model.x=8"], x=8)
    built(Store(tmp_path / "store"), tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "shala 0.500" in text
    assert "a variant, mmvae+ x=9, has 0.700" in text
    overview = text[text.index("Every method") :]
    assert "mmvae+ 0.400 ± 0.010 (1)" in overview
    assert "cmvae 0.100 ± 0.010 (1)x=8" in overview


def test_variants_of_an_ablation_stand_in_tables_of_their_own(tmp_path):
    write_run(tmp_path / "store", "mvae", 0, 0.7)
    for w, joint in ((2.0, 0.5), (0.0, 0.9)):
        changed = [] if w else ["model.prior.guidance=0.0"]
        facts = {"overrides": changed, "settings": {"model.prior.guidance": w}}
        write_run(tmp_path / "store", "shala", 0, joint, name=f"w{w}", **facts)
    out = tmp_path / "out"
    files = built(Store(tmp_path / "store"), out)
    assert sum(name.startswith("runs/") for name in files) == 3
    text = files["polymnist-quick.html"].read_text()
    first, ablations = text.split('<h2 id="ablations">')
    assert "guidance" not in first
    assert ">0.900<" not in first
    assert "Guidance scale w" in ablations
    rows = re.findall(r'<th scope="row"><a href="[^"]*">([^<]*)</a>', ablations.split("<h2")[0])
    assert rows == ["w = 0", "w = 2 (the preset&#39;s)"]
    assert "a variant" not in page(out).text


def test_of_a_preset_that_ran_twice_the_ablation_s_run_stands_with_the_ablation(tmp_path):
    root = tmp_path / "store"
    write_run(root, "mvae", 0, 0.7)
    for w, precision, joint in ((2.0, "bf16", 0.4), (2.0, "float32", 0.5), (0.0, "float32", 0.9)):
        changed = [] if w else ["model.prior.guidance=0.0"]
        facts = {"overrides": changed, "settings": {"model.prior.guidance": w}}
        write_run(root, "shala", 0, joint, name=f"{w}{precision}", precision=precision, **facts)
    text = built(Store(root), tmp_path / "out")["polymnist-quick.html"].read_text()
    first, ablations = text.split('<h2 id="ablations">')
    assert ">0.400<" in first
    assert ">0.500<" not in first
    assert ">0.400<" not in ablations.split("<h2")[0]
    assert ">0.500<" in ablations


def test_a_best_method_that_passes_no_floor_says_so(tmp_path):
    write_views(tmp_path / "store", "shala", 9.0)
    text = " ".join(
        built(Store(tmp_path / "store"), tmp_path / "out")["index.html"].read_text().split()
    )
    assert "which needs no method, has" in text
    write_views(tmp_path / "good", "shala", 27.0)
    good = built(Store(tmp_path / "good"), tmp_path / "better")["index.html"].read_text()
    assert "which needs no method" not in good


def test_metrics_presets_and_methods_are_explained(store, tmp_path):
    build_report([store], tmp_path / "out")
    words = page(tmp_path / "out").text
    words = words[words.index("What the words mean") :]
    for told in ("agree", "preset quick", "Minutes on two cores", "Doe: A Method (2020)"):
        assert told in words, told


def test_floors_are_drawn_where_methods_are_near_and_named_for_who_does_not_see(tmp_path):
    for model, value in (("shala", 12.0), ("cmvae", 16.0)):
        write_views(tmp_path / "store", model, value)
    section = next(s for s in sections_of(load([Store(tmp_path / "store")])))
    drawing = charts.dots(section, "psnr/p1")
    assert "floor: white, dashed: 10.50" in drawing.alt
    lines = [line for axes in drawing.figure.axes for line in axes.lines]
    assert [10.5, 10.5] in [list(line.get_xdata()) for line in lines]
    assert "floor" not in charts.dots(section, "psnr/p1-rotated").alt.split("cmvae")[0]


def test_an_evaluator_s_settings_split_no_row_of_another_evaluator(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "store", "shala", seed, 0.6 + seed / 10)
    larger = write_run(tmp_path / "store", "mmvae+", 0, 0.4)
    run = json.loads((larger / "run.json").read_text())
    run["settings"]["evaluators.samples.columns"] = 5
    (larger / "run.json").write_text(json.dumps(run))
    other = write_run(tmp_path / "store", "shala", 2, 0.8)
    run = json.loads((other / "run.json").read_text())
    run["settings"]["evaluators.samples.columns"] = 5
    (other / "run.json").write_text(json.dumps(run))
    built(Store(tmp_path / "store"), tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "shala 0.700 ± 0.058" in text
    assert "+0.300 over mmvae+" in text


def test_a_lead_is_that_of_the_means_and_what_is_known_of_fewer_trainings_says_so(tmp_path):
    for seed, joint in enumerate((0.5, 0.7, 0.7)):
        write_run(tmp_path / "store", "shala", seed, joint)
    write_run(tmp_path / "store", "mopoe", 0, 0.6)
    built(Store(tmp_path / "store"), tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "+0.033 over mopoe" in text
    assert "Not tested over trainings" in text  # one seed of mopoe
    assert "interval over test items of one training a side" in text
    assert 'class="winner"' not in (tmp_path / "out" / "index.html").read_text()


def test_a_collapsed_model_is_never_best_and_said_to_be_so(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path / "store", "constant", seed, 0.809 + seed / 100, classes=1.0)
        write_run(tmp_path / "store", "mmvae+", seed, 0.5 + seed / 100, classes=8.0)
        write_run(tmp_path / "store", "mvae", seed, 0.4 + seed / 100, classes=7.0)
    built(Store(tmp_path / "store"), tmp_path / "out")
    text = " ".join(page(tmp_path / "out").text.split())
    assert "+0.100 over mvae" in text
    assert "collapsed, not ranked: constant (1.0 of 10 classes)" in text
    html = (tmp_path / "out" / "polymnist-quick.html").read_text()
    assert re.findall(r'class="best">([^<]*)<', html)[0] == "0.510*"
    assert '<span class="">0.819†</span>' in html
    names = re.findall(r'<th scope="row"><a href="[^"]*">([^<]*)</a>', html)
    assert names[:3] == ["mmvae+", "mvae", "constant"]
    section = next(s for s in sections_of(load([Store(tmp_path / "store")])))
    assert charts.tested(section, "coherence/joint") == {"mmvae+", "mvae"}
    assert "constant 0.819 (collapsed)" in charts.dots(section, "coherence/joint").alt


def test_pictures_of_another_split_are_not_shown_as_this_one_s(store, tmp_path):
    folder = next(f.path for f in store.runs())
    file = next((folder / "results").glob("*.json"))
    validation = json.loads(file.read_text())
    name = "pictures/samples-joint-0123456789.png"
    validation |= {"split": "validation", "eval_id": "0123456789abc", "pictures": [name]}
    (folder / "results" / "validation.json").write_text(json.dumps(validation))
    Image.new("RGB", (8, 8)).save(folder / name)
    build_report([store], tmp_path / "out")
    build_report([store], tmp_path / "validation", "validation")
    assert not list((tmp_path / "out").rglob("*0123456789.png"))
    assert [f.name for f in (tmp_path / "validation").rglob("*.png")] == [Path(name).name]


def test_variants_have_short_names_of_what_differs_and_a_legend(tmp_path):
    for x, seed in ((2, 0), (3, 0)):
        overrides = [f"model.x={x}", "train.precision=bf16"]
        name = f"v{x}"
        write_run(tmp_path / "store", "shala", seed, x / 10, name=name, overrides=overrides, x=x)
    built(Store(tmp_path / "store"), tmp_path / "out")
    assert "shala x=3 0.300" in " ".join(page(tmp_path / "out").text.split())
    legend = page(tmp_path / "out", "polymnist-quick.html").text
    assert "shala [model.x=3] [train.precision=bf16]" in legend


def test_tables_of_views_say_what_figures_hang_on_and_where_floors_lie(tmp_path):
    write_views(tmp_path / "store", "shala", 25.0, "32 px", supervision="aligned views")
    build_report([Store(tmp_path / "store")], tmp_path / "out")
    text = Page(next((tmp_path / "out").glob("cars-*.html"))).text
    for words in ("resolution", "32 px", "aligned views", "24.7", "16 views, given ones unsaid"):
        assert words in text, words
    assert text.index("Floor") < text.index("Blue and bold")
    assert "Floor-white" not in text  # a floor is a line below the tables, not a table
    first = Page(tmp_path / "out" / "index.html").text
    assert "24.7 at 128 px, 22.2 at 256 px for shala" in first
    assert "not reported" not in first


def test_a_failed_run_shows_its_last_lines(store, tmp_path):
    lines = [f"line {n}" for n in range(90)]
    failed = {"status": "failed", "reason": "no memory", "traceback": "\n".join(lines)}
    write_run(store.root, "mvae", 0, 0, failed=failed)
    build_report([store], tmp_path / "out")
    text = run_page(tmp_path / "out", "mvae-0").text
    assert "no memory" in text
    assert "line 60" in text
    assert "line 89" in text
    assert "line 59" not in text
    assert "1 failed" in page(tmp_path / "out").text


def test_run_page_shows_settings_matrix_and_texts(store, tmp_path):
    build_report([store], tmp_path / "out")
    text = run_page(tmp_path / "out", "shala-0").text
    for word in ("model.x", " 61", " 47", "a bird <b>with</b> wings", "Joint samples"):
        assert word in text
    assert "1.0 GiB" in page(tmp_path / "out", "polymnist-quick.html").text


def test_time_of_the_processor_is_shown_where_it_is_recorded(store, tmp_path):
    build_report([store], tmp_path / "wall")
    for file in store.root.glob("*/trained.json"):
        trained = json.loads(file.read_text())
        trained["provenance"]["cpu_seconds"] = 300.0
        file.write_text(json.dumps(trained))
    build_report([store], tmp_path / "both")
    wall, both = (page(tmp_path / n, "polymnist-quick.html").text for n in ("wall", "both"))
    assert "5 min" not in wall
    assert "training, minutes," in wall
    assert "5 min" in both
    assert "training, minutes of CPU time" in both


def test_attributes_are_told_one_by_one_beside_guessing(tmp_path):
    for seed, right in enumerate((0.9, 0.7)):
        folder = write_run(tmp_path / "store", "shala", seed, 0.5)
        write_result(folder, 0.5)
        file = folder / "results" / "coherence-1.json"
        parts = {
            "sky": {"value": right, "chance": 0.25},
            "beak": {"value": None, "chance": 0.125},
        }
        told = {"attributes/joint": parts, "ceiling/attributes": parts}
        result = json.loads(file.read_text()) | {"evaluator": "attributes"}
        about = {"direction": "higher", "digits": 3, "meaning": "named as drawn"}
        result["metrics"] += [{"name": name, **about} for name in told]
        file.write_text(json.dumps(result | {"eval_id": "a", "details": {"parts": told}}))
    (section,) = sections_of(load([Store(tmp_path / "store")]))
    assert by_attribute(section) == {
        "attributes/joint": (
            ["shala", "guessing"],
            ["sky", "beak"],
            {
                ("shala", "sky"): pytest.approx(0.8),
                ("guessing", "sky"): 0.25,
                ("guessing", "beak"): 0.125,
            },
        )
    }
    pages = built(Store(tmp_path / "store"), tmp_path / "out")
    assert "attributes" in {h.get("id") for h in Page(pages["polymnist-quick.html"]).having("h2")}


def test_an_older_report_is_replaced_and_another_folder_left_alone(store, tmp_path):
    out = tmp_path / "out"
    build_report([store], out)
    stale = out / "runs" / "stale.html"
    stale.write_text("old")
    build_report([store], out)
    assert not stale.exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(BenchError, match="no report and not empty"):
        build_report([store], mine)
    assert (mine / "thesis.txt").read_text() == "mine"


def test_nothing_readable_is_an_error_and_not_an_empty_report(tmp_path):
    with pytest.raises(BenchError, match="There is no run"):
        load([Store(tmp_path)])
    (tmp_path / "store" / "broken").mkdir(parents=True)
    (tmp_path / "store" / "broken" / "run.json").write_text("{")
    found = CliRunner().invoke(
        main, ["report", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    )
    assert found.exit_code == 2
    assert "No record reads" in found.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["tradeoff", "curves", "heatmap", "angles"])
def test_figures_are_written_in_three_forms_with_the_same_bytes(kind, store, tmp_path):
    written = []
    for name in ("a", "b"):
        arguments = ["figure", kind, "--out", str(tmp_path / name), "--store", str(store.root)]
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == 0, found.output
        files = sorted((tmp_path / name).iterdir())
        assert [file.suffix for file in files] == [".pdf", ".png", ".svg"]
        written.append([file.read_bytes() for file in files])
    assert written[0] == written[1]
    assert written[0][0].startswith(b"%PDF")
    assert written[0][1].startswith(b"\x89PNG")
    assert b"<svg" in written[0][2]


def test_heat_maps_name_the_given_modalities_once_a_row(store):
    section = next(s for s in sections_of(load([store])) if charts.heatmap(s))
    first, *others = charts.heatmap(section).figure.axes
    assert others
    assert first.get_yticklabels()
    assert [label for axes in others[:2] for label in axes.get_yticklabels()] == []


def test_latex_has_the_rules_of_booktabs_and_hostile_words_escaped(store, tmp_path):
    write_run(store.root, "a_b", 0, 0.5, overrides=["model.x=~^\\{$\n%#&"], x=7)
    files = built(store, tmp_path / "out")
    text = files["tables/polymnist-quick.tex"].read_text()
    tables = text.count(r"\begin{tabular}")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == tables > 0
    assert r"\hline" not in text
    assert r"a\_b [model.x=\textasciitilde{}\textasciicircum{}\textbackslash{}" in text
    body = re.sub(r"(?m)^%.*$", "", text)
    assert not re.search(r"(?<!\\)[%#_]", body)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_tables_compile_alone_with_their_first_and_last_comment_as_code(tmp_path):
    write_run(tmp_path, "a_b", 0, 0.5, overrides=["model.x=~^\\{$\n%#&<>"], x=7)
    text = render(make_tables([Store(tmp_path)], "coherence", dataset="polymnist"), "latex")
    first, *lines, last = text.splitlines()
    whole = [first.removeprefix("% "), *lines, last.removeprefix("% ")]
    (tmp_path / "table.tex").write_text("\n".join(whole))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-500:]


def console(folder: Path, name: str, pages: list[str]) -> list[str]:
    """Lines of the console of a page that shows others in frames."""
    frames = "".join(f'<iframe src="{page}" width="600" height="200"></iframe>' for page in pages)
    (folder / name).write_text(f"<!doctype html><title>all</title>{frames}")
    profile = f"--user-data-dir={folder}/.profile"
    quiet = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    done = subprocess.run(
        [CHROMIUM, *quiet, profile, "--enable-logging=stderr", "--dump-dom", folder / name],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "<iframe" in done.stdout, done.stderr
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_pages_open_in_a_browser_without_a_console_message(store, tmp_path):
    out = tmp_path / "out"
    pages = [name for name in built(store, out) if name.endswith(".html")]
    (out / "bad.html").write_text("<!doctype html><script>undefinedName()</script>")
    assert console(out, "planted.html", ["bad.html"]) != []
    assert console(out, "all.html", pages) == []
