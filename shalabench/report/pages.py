"""Writes the report: a folder of pages made from records."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from shalabench.analysis.comparisons import spread
from shalabench.analysis.tables import render
from shalabench.analysis.verdicts import SYMBOLS
from shalabench.api.errors import BenchError
from shalabench.config.settings import describe_preset, presets
from shalabench.records.frame import Records, load
from shalabench.records.store import RunFolder, Store, guard
from shalabench.report import charts, content, words
from shalabench.report.drawing import Drawing, as_svg
from shalabench.report.glance import glances
from shalabench.report.prior_axis import by_prior
from shalabench.report.sections import (
    Section,
    by_attribute,
    parts_of,
    sections_of,
    states,
    variation,
)

MARKER = ".shala-bench-report"  # a folder with this file may be replaced
_TEMPLATES = Path(__file__).parent / "templates"
_RUNS_A_PROCESS = 50  # Fewer are drawn sooner than a process starts.


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


def build_report(stores: Sequence[Store], out: Path, split: str = "test") -> Built:
    """Write the pages of all records of some stores.

    Args:
        stores: Where records lie; at least one that reads.
        out: A folder that is missing, empty, or an older report, which is replaced.
        split: What was measured on.

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
    with guard(out, "OUT"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".report-") as temporary:
            folder = Path(temporary) / "report"
            pages = _Writer(folder, records, split).write()
            (folder / MARKER).write_text("Made by: python bench.py report\n", encoding="utf-8")
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
    return Built(pages, len(records.runs), len(records.problems))


def _may_replace(folder: Path) -> bool:
    return (folder / MARKER).exists() or not any(folder.iterdir())


class _Writer:
    """Writes one report.

    Args:
        folder: Where; must not exist.
        records: What is shown.
        split: What was measured on.
    """

    def __init__(self, folder: Path, records: Records, split: str):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.folder, self.records, self.split = folder, records, split
        self.sections = sections_of(records)
        self.environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.filters |= {
            "duration": words.duration,
            "memory": words.memory,
            "count": words.count,
            "spread": lambda diff, digits: words.dashed(spread(diff, digits)),
            "signed": words.signed,
            "mark": lambda mark: SYMBOLS.get(mark, ""),
            "pictureword": words.picture_word,
            "caption": words.picture_caption,
        }
        names = [name for s in self.sections for _, own in _all_rows(s) for name in own.runs["run"]]
        self.pages = {name: f"runs/{words.page_name(name)}.html" for name in names}

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
        folders = [own.folders[run.train_id] for _, _, own, run in runs]
        with _drawn(folders) as curves:
            shown = [self._section(section) for section in self.sections]
            for page in shown:
                self._page(page["page"], "dataset.html", root="", **page)
            for (place, label, own, run), drawing in zip(runs, curves, strict=True):
                self._page(
                    self.pages[run.run],
                    "run.html",
                    root="../",
                    label=label,
                    section=self.sections[place],
                    home=shown[place]["page"],
                    curves=drawing,
                    pictures=self._pictures(run, own),
                    **content.run_facts(run, own),
                )
        frame = self.records.runs
        used = {section.preset for section in self.sections}
        self._page(
            "index.html",
            "index.html",
            root="",
            sections=shown,
            problems=self.records.problems,
            methods=sorted(set(frame["model"])),
            overview=self._overview(),
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
        headlines = section.headlines()
        costs = content.cost_facts(section, self.pages)
        by_label = {cost["label"]: cost for cost in costs}
        tables = content.table_facts(section.tables)
        return {
            "section": section,
            "page": f"{stem}.html",
            "glances": list(glances(section)),
            "dots": [
                (dots.title, as_svg(dots), section.metrics[metric]["meaning"])
                for metric in headlines
                for dots in [charts.dots(section, metric)]
            ],
            "trade": _svg(charts.tradeoff(section)),
            "cost_figure": _svg(charts.cost(section, headlines[0])) if headlines else None,
            "priors": _svg(by_prior(section)),
            "angles": _svg(charts.angles(section)),
            "curves": _svg(charts.curves(section)),
            "tables": tables,
            "gaps": any(column["gaps"] for table in tables for column in table["columns"]),
            "studies": [(a, content.table_facts(t, in_order=True)) for a, t in section.studies],
            "files": self._files(section, stem),
            "matrices": content.matrix_facts(section),
            "attributes": by_attribute(section),
            "sheets": self._sheets(section),
            "costs": costs,
            "reported": content.reported_facts(section),
            "cost_of": lambda row: by_label[section.records_of(row)[0]],
            "pages": self.pages,
            "notes": dict.fromkeys(note for t in section.tables for note in t.notes),
            "states": states(section.records.runs),
            "varied": sum(len(own.runs) for _, own in section.varied),
            "sources": content.data_sentences(section),
            "names": section.names,
            "study_names": content.study_names(section),
            "variants": [(n, label) for label, n in section.names.items() if n != label],
            "methods": section.records.runs["model"].nunique(),
        }

    def _sheets(self, section: Section) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """By kind: label, file and alternative text of the picture of each method's first seed."""
        kinds: dict[str, list[tuple[str, str, str]]] = {}
        for label, own in section.rows:
            pictures = (self._pictures(run, own) for run in own.rows)
            for kind, file, alt in next(filter(None, pictures), []):
                kinds.setdefault(kind, []).append((label, file, alt))
        order = {kind: place for place, kind in enumerate(words.KINDS)}
        return sorted(kinds.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))

    def _pictures(self, run: Any, own: Records) -> list[tuple[str, str, str]]:
        """Copied once; kind, path from the root, alternative text."""
        pictures = []
        folder = own.folders[run.train_id]
        for kind, name in content.named_files(own.results[run.train_id], "pictures"):
            file = folder.picture(name)
            if file is None:
                continue
            target = f"pictures/{words.page_name(run.run)}/{words.page_name(file.stem)}"
            copy = self.folder / f"{target}{file.suffix}"
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            about = f"{words.picture_word(kind)} of {run.model}, seed {run.seed}, on {run.dataset}"
            alt = f"{about}: {words.picture_caption(kind)}"
            pictures.append((kind, f"{target}{file.suffix}", alt))
        return pictures

    def _files(self, section: Section, stem: str) -> list[tuple[str, str]]:
        """The section's tables as LaTeX and CSV, as wide as a page takes."""
        if not section.tables:
            return []
        (self.folder / "tables").mkdir(exist_ok=True)
        tables = [*section.tables, *(table for _, own in section.studies for table in own)]
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
        pairs = {(m, s.metrics[m]["meaning"]) for s in self.sections for m in s.headlines()}
        return sorted((metric, meaning) for metric, meaning in pairs if meaning)

    def _overview(self) -> tuple[list[tuple[Section, str]], list[tuple[str, list]]]:
        """Columns, a section and headline each; a line a method.

        Its cells are of the preset's settings; where only variants were measured, of the best, with
        what it varies.
        """
        columns = [(s, metric) for s in self.sections for metric in s.headlines()]
        lines: dict[str, list] = {}
        for place, (section, metric) in enumerate(columns):
            digits = section.table_with(metric).metrics[metric][1]
            for row, cell in section.ranked(metric, plain=True):
                cells = lines.setdefault(row.method, [None] * len(columns))
                cells[place] = cells[place] or (cell, digits, variation(row.label))
        return columns, sorted(lines.items())


def _all_rows(section: Section) -> list[tuple[str, Records]]:
    return [*section.rows, *section.varied]


def _svg(drawing: Drawing | None) -> tuple[str, str] | None:
    """Title and picture, where there is one."""
    return (drawing.title, as_svg(drawing)) if drawing else None


@contextmanager
def _drawn(folders: Sequence[RunFolder]) -> Iterator[Iterator[tuple[str, str] | None]]:
    """Each run's learning curves, title and picture, drawn by other processes where they are many.

    They are most of a report's time.
    """
    workers = min(os.cpu_count() or 1, len(folders) // _RUNS_A_PROCESS)
    if workers < 2:
        yield map(_curves, folders)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        yield pool.map(_curves, folders, chunksize=8)


def _curves(folder: RunFolder) -> tuple[str, str] | None:
    return _svg(charts.run_curves(folder.path.name, folder))
