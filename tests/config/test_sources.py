"""Sources: every setting cites a page of the documentation, a known work, or says "our choice"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shalabench.api.registry import broken, entries
from shalabench.config.ablations import ablations, read_ablation
from shalabench.config.files import DatasetFile, PresetFile, read_toml
from shalabench.config.settings import CONFIGS, _sources
from shalabench.config.training import EvaluateSettings, PriorSettings, TrainSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGES = DOCS / "reproduction"
INDEX = (PAGES / "index.md").read_text(encoding="utf-8")
FILES = sorted(str(f.relative_to(CONFIGS)) for f in CONFIGS.glob("[pd]*/*.toml"))


def _works() -> list[str]:
    """The names in the first column of the index's table of works."""
    table = INDEX.split("(works-cited)=")[1].split("\n\nThe statements")[0]
    return re.findall(r"^\| (?!cited as)([^|]*?) \|", table, re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """Targets and headings of a page."""
    text = page.read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))


def problem(source: str) -> str:
    """What is wrong with a source; empty if nothing is."""
    links = re.findall(r"((?:reproduction|docs)/[\w-]+)\.md(?:#([\w-]+))?", source)
    links = [(DOCS / f"{page.removeprefix('docs/')}.md", anchor) for page, anchor in links]
    for page, anchor in links:
        if not page.exists():
            return f"no page {page.name}"
        if anchor and anchor not in _anchors(page):
            return f"no anchor {anchor} on {page.name}"
    if len(links) < len(re.findall(r"\.md\b", source)):
        return "a page without its folder"
    if links or source.startswith("our choice") or any(work in source for work in _works()):
        return ""
    return "neither a page, a known work nor our choice"


def _of_class(settings: type) -> dict[str, str]:
    return {f"{key}: {source}": problem(source) for key, source in _sources(settings)}


@pytest.mark.parametrize("kind", ["model", "dataset", "evaluator"])
def test_every_default_of_every_component_has_a_source(kind):
    checked = {
        f"{name}.{key}": why
        for name, entry in entries(kind).items()
        for key, why in _of_class(entry.cls.Config).items()
    }
    assert checked
    assert not broken(kind)
    assert {key: why for key, why in checked.items() if why} == {}


@pytest.mark.parametrize("settings", [TrainSettings, PriorSettings, EvaluateSettings])
def test_every_default_of_a_section_has_a_source(settings):
    assert {key: why for key, why in _of_class(settings).items() if why} == {}


@pytest.mark.parametrize("name", FILES)
def test_every_value_of_every_settings_file_has_a_source(name):
    mistakes = []
    schema = PresetFile if name.startswith("presets") else DatasetFile
    file = read_toml(CONFIGS / name, schema, mistakes)
    assert mistakes == []
    known = {"data.source"}  # a setting of PolyMNIST
    for table in (file, *getattr(file, "presets", {}).values()):
        values = [*table.shared(known)]
        values += [value for model in table.models for value in table.special(model, known)]
        assert [(key, s, problem(s)) for key, _, s in values if problem(s)] == []


@pytest.mark.parametrize("name", ablations())
def test_every_ablation_has_a_source(name):
    assert problem(read_ablation(name).source) == ""


@pytest.mark.parametrize(
    ("source", "good"),
    [
        ("MoPoE code, job_polymnist (reproduction/mopoe.md)", True),
        ("our choice: five minutes", True),
        ("Kingma and Ba 2015", True),
        ("reproduction/pitfalls.md#trap-5", True),
        ("reproduction/mopoee.md", False),
        ("reproduction/pitfalls.md#trap-25", False),
        ("reproduction/mopoe.md, mmjsd.md", False),
        ("five minutes", False),
        ("", False),
    ],
)
def test_a_source_is_a_page_a_known_work_or_our_choice(source, good):
    assert (problem(source) == "") == good


def test_the_index_lists_every_page_and_no_page_cites_a_missing_one():
    listed = set(re.findall(r"^([\w-]+)$", INDEX, re.MULTILINE))
    assert {f.stem for f in PAGES.glob("*.md")} - {"index"} <= listed
    for file in PAGES.glob("*.md"):
        for page, anchor in re.findall(r"\]\(([\w-]+)\.md(?:#([\w-]+))?\)", file.read_text()):
            assert (PAGES / f"{page}.md").exists(), (file.name, page)
            assert not anchor or anchor in _anchors(PAGES / f"{page}.md"), (file.name, page, anchor)
