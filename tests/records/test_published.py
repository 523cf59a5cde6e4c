"""Published values and their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.records import write_run

from bench import main
from shalabench.analysis.tables import make_tables, render
from shalabench.api import BenchError
from shalabench.records.published import MAIN, published_by, read_published, read_sources
from shalabench.records.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"
FID = "fid/inception-v3-compat/joint"


def test_published_values_are_those_of_the_paper():
    """Typed from the paper's tables by hand, not read from the file."""
    found = {(p.dataset, p.method, p.metric, p.condition): p.value for p in published_by("cui2026")}
    fid = "fid/inception-v3-compat/"
    for key, value in {
        ("polymnist", "shala", "coherence/joint", ""): "0.815",
        ("polymnist", "shala", "coherence/cross", ""): "0.897",
        ("polymnist", "mmvae+", "coherence/joint", ""): "0.344",
        ("polymnist", "mmvae+", "coherence/cross", ""): "0.869",
        ("polymnist", "mvtcae", "coherence/joint", ""): "0.003",
        ("mst", "mmjsd", "coherence/cross", ""): "0.72",
        ("mst", "mvebm", "coherence/cross", ""): "0.43",
        ("polymnist", "mvae", f"{fid}joint", ""): "50.65",
        ("polymnist", "cmvae", f"{fid}cross", ""): "74.53",
        ("cub", "shala", f"{fid}cross", ""): "25.58",
        ("cub", "mvebm", f"{fid}cross", ""): "136.16",
        ("cub", "cmvae", f"{fid}cross", "model.decoders=diffusion"): "28.00",
        ("cars", "shala", "psnr", "128 px"): "24.7",
        ("cars", "syncdreamer", "ssim", "256 px"): "0.88",
        ("mst", "shala", "coherence/joint", "condition on x"): "0.23",
        ("polymnist", "shala", f"{fid}cross", "1/4x parameters"): "49.75",
    }.items():
        assert found[key] == value, key
    counts = {}
    for p in published_by("cui2026"):
        counts[p.source[-7:]] = counts.get(p.source[-7:], 0) + 1
    assert counts == {"Table 2": 29, "Table 3": 25, "Table 4": 16, "Table 5": 8, "Table 6": 8}
    assert ("mst", "mmjsd", "coherence/joint", "") not in found


def test_values_of_the_library_s_readme_are_those_of_its_columns():
    """Typed by hand from its table, which is in per cent."""
    ours = {
        "mopoe": ("67", "79", "84", "85"),
        "mvtcae": ("64", "82", "88", "91"),
        "mmvae+": ("88.6",),
        "cmvae": ("88.6",),
    }
    papers = {
        "mopoe": ("66", "77", "81", "83"),
        "mvtcae": ("69", "77", "83", "86"),
        "mmvae+": ("86.9",),
        "cmvae": ("89.7",),
    }
    names = ("coherence/cross", *(f"coherence/subset-{k}" for k in (2, 3, 4)))
    found = {"multivae": {}, "papers": {}}
    for p in read_published():
        if p.key != MAIN and p.metric in names:
            column = found["multivae" if p.key == "multivae" else "papers"]
            assert p.metric == names[len(column.setdefault(p.method, []))]
            column[p.method].append(float(p.value) * 100)
    for column, typed in (("multivae", ours), ("papers", papers)):
        assert found[column].keys() == typed.keys()
        for method, values in typed.items():
            assert found[column][method] == pytest.approx([float(v) for v in values])
    rest = {(p.key, p.method, p.metric): (p.value, p.spread) for p in read_published()}
    assert rest["multivae", "cmvae", "coherence/joint"] == ("0.764", "")
    assert rest["palumbo2024", "cmvae", "coherence/joint"] == ("0.781", "")
    assert rest["multivae", "mmvae+", "coherence/cross"] == ("0.886", "0.008")
    assert rest["multivae", "mmvae+", FID] == ("93", "5")
    assert not [
        key for key in rest if key[0] != MAIN and key[2].startswith("fid") and key[2] != FID
    ]


def test_every_value_has_a_source_and_the_documentation_lists_all():
    assert {p.key for p in read_published()} == read_sources().keys()
    assert next(iter(read_sources())) == MAIN
    text = PAGE.read_text(encoding="utf-8").split("## Published values")[1]
    assert re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE) == list(read_sources())


def test_no_value_is_published_twice_by_one_source():
    keys = [(p.key, p.dataset, p.method, p.metric, p.condition) for p in read_published()]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def store(tmp_path):
    write_run(tmp_path, "shala", 0, 0.8)
    write_run(tmp_path, "cmvae", 0, 0.7)
    return Store(tmp_path)


def values(store, **asked):
    [table] = make_tables([store], "coherence/joint", dataset="polymnist", **asked)
    return table, {row.label: row.published.get("coherence/joint") for row in table.rows}


def test_a_column_has_the_paper_s_values_or_those_of_the_source_that_is_asked_for(store):
    assert values(store)[1]["cmvae"] == "0.781"
    table, found = values(store, source="multivae")
    assert found == {"shala": None, "cmvae": "0.764"}
    head = render([table], "text").splitlines()[2]
    assert head.split()[:4] == ["method", "joint", "published,", "multivae"]


def test_other_sources_add_no_row_and_change_no_measured_value(store):
    plain, wide = values(store)[0], values(store, source="multivae")[0]
    cells = {row.label: row.cells for row in plain.rows if row.cells}
    assert cells == {row.label: row.cells for row in wide.rows}
    main = {p.method for p in published_by(MAIN) if p.dataset == "polymnist"}
    assert {row.label for row in plain.rows} <= main
    assert {row.label for row in wide.rows} == {"shala", "cmvae"}  # joint: of this source, cmvae's


def test_all_sources_stand_beside_each_other_with_their_keys(store):
    asked = ["table", "--metric", "coherence/joint", "--dataset", "polymnist"]
    asked += ["--store", str(store.root), "--published"]
    found = CliRunner().invoke(main, [*asked, "all"]).output
    [line] = [line for line in found.splitlines() if line.startswith("cmvae ")]
    assert "0.781" in line
    assert line.rstrip().endswith("0.764 multivae; 0.781 palumbo2024")
    for key in ("multivae", "palumbo2024"):
        assert sum(line.strip().startswith(f"{key}: ") for line in found.splitlines()) == 1
    wrong = CliRunner().invoke(main, [*asked, "multivea"])
    assert wrong.exit_code == 2
    assert "multivae" in wrong.output


def test_an_unknown_source_is_refused():
    with pytest.raises(BenchError):
        published_by("nobody")
