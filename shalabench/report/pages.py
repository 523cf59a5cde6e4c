"""Writes the report: a folder of pages made from records."""

from __future__ import annotations

import gc
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from shalabench.analysis.by_prior import metric_of
from shalabench.analysis.comparisons import spread
from shalabench.analysis.fitting import duration
from shalabench.analysis.tables import render
from shalabench.analysis.verdicts import SYMBOLS
from shalabench.api.errors import BenchError
from shalabench.config.settings import describe_preset, presets
from shalabench.records.columns import RunRow
from shalabench.records.frame import Records, load
from shalabench.records.store import Store, guard
from shalabench.report import charts, content, words
from shalabench.report.drawing import FORMS, Drawing, as_file, as_svg
from shalabench.report.first import overview, strip
from shalabench.report.glance import glances
from shalabench.report.losses import Terms, readings, run_losses, small_losses, without_priors
from shalabench.report.matrices import by_attribute
from shalabench.report.pictures import Picture, Pictures
from shalabench.report.prior_axis import by_prior
from shalabench.report.progress import progress
from shalabench.report.sections import Section, parts_of, sections_of, states

MARKER = ".shala-bench-report"  # a folder with this file may be replaced
_TEMPLATES = Path(__file__).parent / "templates"
Step = Callable[[str, int, int], None]  # what is made, how many are done, of how many


class Figure(NamedTuple):
    """A figure on a page.

    Attributes:
        title: Of one line.
        svg: The picture.
        note: What it shows, in a sentence; may be empty.
        files: Forms and paths of the same for a paper.
    """

    title: str
    svg: str
    note: str = ""
    files: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Built:
    """What a report was made of.

    Attributes:
        pages: Number of pages.
        runs: Number of runs shown.
        problems: Number of records left out.
    """

    pages: int
    runs: int
    problems: int


def build_report(
    stores: Sequence[Store],
    out: Path,
    split: str = "test",
    *,
    figures: bool = False,
    step: Step = lambda what, done, total: None,
) -> Built:
    """Write the pages of all records of some stores.

    Args:
        stores: Where records lie; at least one that reads.
        out: A folder that is missing, empty, or an older report, which is replaced.
        split: What was measured on.
        figures: Whether each figure is also written as PNG, SVG and PDF.
        step: Called after each page.

    Raises:
        BenchError: `out` holds something else or cannot be written, or there is no record to show.
    """
    with guard(out, "OUT"):
        if out.exists() and not (out.is_dir() and _may_replace(out)):
            raise BenchError(
                f"{out} is no report and not empty, so it is left as it is. Name another folder."
            )
    records = load(stores, split)
    if records.runs.empty:
        reasons = "; ".join(f"{p.where}: {p.kind}" for p in records.problems)
        raise BenchError(f"No record reads, so there is nothing to report: {reasons}.")
    with guard(out, "OUT"), _seldom_collected():
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".report-") as temporary:
            folder = Path(temporary) / "report"
            pages = _Writer(folder, records, split, figures, step).write()
            (folder / MARKER).write_text("Made by: python bench.py report\n", encoding="utf-8")
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
    return Built(pages, len(records.runs), len(records.problems))


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Let the collector of cycles run a hundredth as often: records and figures stay anyway."""
    usual = gc.get_threshold()
    gc.set_threshold(100 * usual[0], *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _may_replace(folder: Path) -> bool:
    return (folder / MARKER).exists() or not any(folder.iterdir())


class _Writer:
    """Writes one report.

    Args:
        folder: Where; must not exist.
        records: What is shown.
        split: What was measured on.
        figures, step: As `build_report` takes them.
    """

    def __init__(self, folder: Path, records: Records, split: str, figures: bool, step: Step):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.folder, self.records, self.split = folder, records, split
        self.figures, self.step = figures, step
        self.sections = sections_of(records)
        self.environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "duration": duration,
            "memory": words.memory,
            "count": words.count,
            "spread": lambda diff, digits: words.dashed(spread(diff, digits)),
            "signed": words.signed,
            "breakable": words.breakable,
            "mark": lambda mark: SYMBOLS.get(mark, ""),
            "pictureword": words.picture_word,
            "caption": words.picture_caption,
        }
        names = [name for s in self.sections for _, own in _all_rows(s) for name in own.runs["run"]]
        self.pages = {name: f"runs/{words.page_name(name)}.html" for name in names}
        self.pictures = Pictures(folder)
        self.read: dict[str, dict[str, Terms]] = {}

    def write(self) -> int:
        """Write all pages; the number of them."""
        self.folder.mkdir(parents=True)
        shutil.copyfile(_TEMPLATES / "style.css", self.folder / "style.css")
        runs = [
            (place, label, own, run)
            for place, section in enumerate(self.sections)
            for label, own in _all_rows(section)
            for run in own.rows
        ]
        shown = []
        for place, section in enumerate(self.sections):
            shown.append(self._section(section))
            self._page(shown[-1]["page"], "dataset.html", root="", **shown[-1])
            self.step("pages of datasets", place + 1, len(self.sections))
        for number, (place, label, own, run) in enumerate(runs):
            losses = run_losses(run.run, self._losses(run, own))
            self._page(
                self.pages[run.run],
                "run.html",
                root="../",
                label=label,
                section=self.sections[place],
                home=shown[place]["page"],
                curves=Figure(*losses) if losses else None,
                pictures=self.pictures.of(run, own),
                **content.run_facts(run, own),
            )
            self.step("pages of runs", number + 1, len(runs))
        frame = self.records.runs
        used = {section.preset for section in self.sections}
        self._page(
            "index.html",
            "index.html",
            root="",
            sections=shown,
            problems=self.records.problems,
            methods=sorted(set(frame["model"])),
            overview=overview(self.sections),
            strip=strip(self.sections, self.pictures),
            states=states(frame),
            split=self.split,
            papers=sorted(set(zip(frame["model"], frame["paper"], strict=True))),
            presets=[(name, describe_preset(name)) for name in presets() if name in used],
            meanings=self._meanings(),
        )
        return 1 + len(shown) + len(self.pages)

    def _page(self, name: str, template: str, **facts: Any) -> None:
        text = self.environment.get_template(template).render(**facts)
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(re.sub(r"\n\s*\n+", "\n", text) + "\n", encoding="utf-8", newline="\n")

    def _section(self, section: Section) -> dict[str, Any]:
        """The facts of a dataset's page, which the index uses too."""
        parts = (section.dataset, section.preset, section.variant)
        stem = words.page_name("-".join(filter(None, parts)))
        first = next(iter(section.headlines()), "")
        costs = content.cost_facts(section, self.pages)
        by_label = {cost["label"]: cost for cost in costs}
        shown = section.by_network
        tables = content.table_facts(shown.tables)
        leads = list(glances(shown))
        return {
            "section": section,
            "page": f"{stem}.html",
            "best": leads[:1] if shown is section else list(itertools.islice(glances(section), 1)),
            "leads": leads,
            "dots": [
                self._figure(charts.dots(shown, name), stem, shown.metrics[name]["meaning"])
                for name in shown.headlines()
                if metric_of(name) == name  # those by prior have a figure of their own
            ],
            "trade": self._figure(charts.tradeoff(section), stem),
            "cost_figure": self._figure(charts.cost(section, first), stem) if first else None,
            "priors": self._figure(by_prior(section), stem),
            "progress": self._figure(progress(section), stem),
            "angles": self._figure(charts.angles(section), stem),
            "losses": self._small_losses(section),
            "tables": tables,
            "gaps": any(column["gaps"] for table in tables for column in table["columns"]),
            "studies": [(a, content.table_facts(t, in_order=True)) for a, t in section.studies],
            "files": self._files(section, stem),
            "matrices": content.matrix_facts(shown),
            "attributes": by_attribute(shown),
            "sheets": self._sheets(section),
            "costs": costs,
            "reported": content.reported_facts(section),
            "cost_of": lambda row: by_label[section.records_of(row)[0]],
            "pages": self.pages,
            "notes": dict.fromkeys(note for t in section.tables for note in t.notes),
            "states": states(section.records.runs),
            "varied": sum(len(own.runs) for _, own in section.varied),
            "sources": content.data_sentences(section),
            "names": section.names | shown.names,
            "study_names": content.study_names(section),
            "variants": [(n, label) for label, n in section.names.items() if n != label],
            "methods": section.records.runs["model"].nunique(),
        }

    def _figure(self, drawing: Drawing | None, stem: str, note: str = "") -> Figure | None:
        """A figure, where there is one, and its files, where these are asked for."""
        if drawing is None:
            return None
        files = []
        for form in FORMS if self.figures else ():
            name = f"figures/{words.page_name(f'{stem}-{drawing.title}')}.{form}"
            (self.folder / "figures").mkdir(exist_ok=True)
            (self.folder / name).write_bytes(as_file(drawing, form))
            files.append((form.upper(), name))
        return Figure(drawing.title, as_svg(drawing), note, tuple(files))

    def _losses(self, run: RunRow, own: Records) -> dict[str, Terms]:
        """The losses of a run, read once."""
        if run.run not in self.read:
            self.read[run.run] = readings(own.folders[run.train_id], run.stages)
        return self.read[run.run]

    def _small_losses(self, section: Section) -> list[tuple[str, str]]:
        """Name and losses of each method that has any."""
        section = section.by_network
        found = [
            (
                section.names[label],
                list(filter(None, (without_priors(self._losses(run, own)) for run in own.rows))),
            )
            for label, own in section.rows
        ]
        return [(name, small_losses(name, runs)) for name, runs in found if runs]

    def _sheets(self, section: Section) -> list[tuple[str, list[tuple[str, Picture]]]]:
        """By kind: name and picture of each method's first seed that has any.

        Joint samples are those of each prior, in the order of the methods.
        """
        kinds: dict[str, list[tuple[str, Picture]]] = {}
        known, shown = dict(section.rows), section.by_network
        for network, labels in section.priors_of.items():
            for label in labels:
                own, name = known[label], section.names[label]
                found = (self.pictures.of(run, own) for run in own.rows)
                for picture in next(filter(None, found), []):
                    pictures = kinds.setdefault(picture.kind, [])
                    if picture.kind == "joint":
                        pictures.append((name, picture))
                    elif shown.names[network] not in dict(pictures):
                        pictures.append((shown.names[network], picture))
        order = {kind: place for place, kind in enumerate(words.KINDS)}
        return sorted(kinds.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))

    def _files(self, section: Section, stem: str) -> list[tuple[str, str]]:
        """The section's tables as LaTeX and CSV, as wide as a page takes."""
        if not section.tables:
            return []
        (self.folder / "tables").mkdir(exist_ok=True)
        tables = [*section.by_network.tables, *(t for _, own in section.studies for t in own)]
        parts = [part for table in tables for part in parts_of(table)]
        files = []
        form: Literal["latex", "csv"]
        for form, end, word in (("latex", "tex", "LaTeX"), ("csv", "csv", "CSV")):
            name = f"tables/{stem}.{end}"
            text = render(parts, form) + "\n"
            (self.folder / name).write_text(text, encoding="utf-8", newline="\n")
            files.append((word, name))
        return files

    def _meanings(self) -> list[tuple[str, str]]:
        """The metrics of the first page in words; what differs by dataset, once each."""
        pairs = {
            (metric, section.metrics[metric]["meaning"])
            for section in self.sections
            for metric in section.headlines()[:1]
        }
        return sorted((metric, meaning) for metric, meaning in pairs if meaning)


def _all_rows(section: Section) -> list[tuple[str, Records]]:
    return [*section.rows, *section.varied]
