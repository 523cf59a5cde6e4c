"""Pages from sections: what is on each, and how the folder is written."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from shalabench.analysis.compare import spread
from shalabench.analysis.tables import (
    Row,
    Table,
    fact_columns,
    printed_name,
    render,
    told_facts,
)
from shalabench.analysis.variants import label_of
from shalabench.api.errors import BenchError
from shalabench.config.settings import describe_preset, presets
from shalabench.records.gather import Gathered, Record, gather
from shalabench.records.store import LETTERS, RunFolder, Store, guard
from shalabench.report import charts
from shalabench.report.drawing import as_svg
from shalabench.report.sections import (
    Section,
    by_attribute,
    gap,
    glances,
    matrices,
    sections_of,
    standing,
    states,
    variation,
)

MARKER = ".shala-bench-report"  # a folder with this file may be replaced
_TEMPLATES = Path(__file__).parent / "templates"
_LOG_LINES = 30  # of a failure
_EVENTS = 8
_RUNS_A_PROCESS = 50  # Fewer are drawn sooner than a process starts.
_SUBSET = "/subset-"
_BOUNDS = ("Floor", "Ceiling", "Chance")  # how notes on them begin
_PICTURES = {"joint": "Joint samples", "cross": "Translations", "reconstruction": "Reconstructions"}


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
        if out.exists() and not (out.is_dir() and (_is_empty(out) or (out / MARKER).exists())):
            raise BenchError(
                f"{out} is no report and not empty, so it is left as it is. Name another folder."
            )
    found = gather(stores, split)
    if not found.records:
        told = "; ".join(f"{p.where}: {p.kind}" for p in found.problems)
        raise BenchError(f"No record reads, so there is nothing to report: {told}.")
    with guard(out, "OUT"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".report-") as made:
            folder = Path(made) / "report"
            pages = _Writer(folder, found, split).write()
            (folder / MARKER).write_text("Made by: python bench.py report\n", encoding="utf-8")
            if out.exists():
                shutil.rmtree(out)
            folder.rename(out)
    return Built(pages, len(found.records), len(found.problems))


def _is_empty(folder: Path) -> bool:
    return not any(folder.iterdir())


class _Writer:
    """Writes one report.

    Args:
        folder: Where; must not exist.
        found: The records.
        split: What was measured on.
    """

    def __init__(self, folder: Path, found: Gathered, split: str):
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self.folder, self.found, self.split = folder, found, split
        self.sections = sections_of(found)
        self.environment = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        words = {
            "duration": duration,
            "memory": memory,
            "count": count,
            "spread": lambda d, digits: dashed(spread(d, digits)),
            "signed": signed,
        }
        self.environment.filters |= words | {"pictureword": _picture_word, "described": _sentence}
        rows = [row for s in self.sections for row in (*s.records, *s.varied)]
        self.pages = {r.name: f"runs/{page_name(r.name)}.html" for _, own in rows for r in own}

    def write(self) -> int:
        """Write all pages; the number of them."""
        self.folder.mkdir(parents=True)
        shutil.copyfile(_TEMPLATES / "style.css", self.folder / "style.css")
        runs = [
            (place, label, record)
            for place, section in enumerate(self.sections)
            for label, own in (*section.records, *section.varied)
            for record in own
        ]
        folders = [self.sections[place].folders[record.name] for place, _, record in runs]
        with _drawn(folders) as curves:
            shown = [self._section(section) for section in self.sections]
            for page in shown:
                self._page(page["page"], "dataset.html", root="", **page)
            for (place, label, record), own in zip(runs, curves, strict=True):
                self._run(self.sections[place], shown[place], label, record, own)
        used = {section.preset for section in self.sections}
        self._page(
            "index.html",
            "index.html",
            root="",
            sections=shown,
            problems=self.found.problems,
            methods=sorted({r.run["model"] for r in self.found.records}),
            overview=self._overview(),
            states=states(self.found.records),
            split=self.split,
            papers=sorted({(r.run["model"], r.run["paper"]) for r in self.found.records}),
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
        stem = page_name("-".join(filter(None, (section.dataset, section.preset, section.variant))))
        headlines = section.headlines()
        drawings = [charts.dots(section, metric) for metric in headlines]
        trade = charts.tradeoff(section)
        costs = charts.cost(section, headlines[0]) if headlines else None
        curves, angles = charts.curves(section), charts.angles(section)
        sheets, spent = self._sheets(section), self._costs(section)
        by_label = {cost["label"]: cost for cost in spent}
        tables = self._tables(section.tables)
        return {
            "section": section,
            "page": f"{stem}.html",
            "glances": list(glances(section)),
            "dots": [
                (d.title, as_svg(d), section.table_with(d.title).metrics[d.title][2])
                for d in drawings
            ],
            "trade": trade and (trade.title, as_svg(trade)),
            "cost_figure": costs and (costs.title, as_svg(costs)),
            "angles": angles and (angles.title, as_svg(angles)),
            "curves": curves and (curves.title, as_svg(curves)),
            "tables": tables,
            "gaps": any(column["gaps"] for table in tables for column in table["columns"]),
            "studies": [(a, self._tables(t, in_order=True)) for a, t in section.studies],
            "files": self._files(section, stem),
            "matrices": self._matrices(section),
            "attributes": by_attribute(section),
            "sheets": sheets,
            "costs": spent,
            "cost_of": lambda row: by_label[section.label_of(row)],
            "pages": self.pages,
            "notes": dict.fromkeys(note for t in section.tables for note in t.notes),
            "states": states(section.runs),
            "varied": sum(len(own) for _, own in section.varied),
            "sources": _sources(section),
            "names": section.names,
            "study_names": _study_names(section),
            "variants": [(n, label) for label, n in section.names.items() if n != label],
            "methods": len({record.run["model"] for record in section.runs}),
        }

    def _tables(self, tables: list[Table], *, in_order: bool = False) -> list[dict[str, Any]]:
        """All tables; rows without any figure in the first one only, which says why."""
        parts = [part for table in tables for part in _split(table)]
        parts[1:] = [
            replace(
                part, rows=[r for r in part.rows if (r.cells | r.published).keys() & part.metrics]
            )
            for part in parts[1:]
        ]
        return [self._table(part, in_order) for part in parts if part.rows]

    def _table(self, table: Table, in_order: bool) -> dict[str, Any]:
        """A table as columns and lines with the printed figures and the gaps.

        Args:
            table: What is shown.
            in_order: Whether rows stay in their order; else the best stands first.
        """
        names = {metric: printed_name(metric, table) for metric in table.metrics}
        printed = {m for m, own in names.items() if any(own in r.published for r in table.rows)}
        gaps = {m for m in printed if not table.apart and any(gap(r, m) for r in table.rows)}
        columns = fact_columns(table)
        values = {fact: {told_facts(row, [fact])[0] for row in table.rows} for fact in columns}
        facts = [fact for fact in columns if len(values[fact]) > 1]
        first = next(iter(table.metrics))
        sign = -1 if table.metrics[first][0] == "higher" else 1

        def place(row: Row) -> tuple[bool, float, str]:
            cell = row.cells.get(first)
            return cell is None, sign * cell.mean if cell else 0, row.label

        rows = table.rows if in_order else sorted(table.rows, key=place)
        return {
            "title": _family(table),
            "columns": [
                {
                    "name": _short(name, table),
                    "direction": direction,
                    "meaning": meaning,
                    "printed": name in printed,
                    "gaps": name in gaps,
                }
                for name, (direction, _, meaning) in table.metrics.items()
            ],
            "lines": [
                (
                    row,
                    told_facts(row, facts),
                    [self._entry(row, m, table, own) for m, own in names.items()],
                )
                for row in rows
            ],
            "facts": facts,
            "shared": [(f, *values[f]) for f in columns if f not in facts],
            "bounds": [note for note in table.notes if note.startswith(_BOUNDS)],
            "apart": table.apart,
        }

    def _entry(self, row: Row, metric: str, table: Table, name: str) -> dict[str, Any]:
        direction, digits, _ = table.metrics[metric]
        found = gap(row, metric)
        return {
            "cell": row.cells.get(metric),
            "digits": digits,
            "published": row.published.get(name, ""),
            "gap": found,
            "standing": standing(found, direction, same_data=not table.apart),
        }

    def _matrices(self, section: Section) -> list[tuple[str, list]]:
        """By metric: each method's matrix."""
        by_row = [(label, matrices(own)) for label, own in section.records]
        names = list(dict.fromkeys(name for _, found in by_row for name in found))
        shown = [
            (name, [(label, found[name]) for label, found in by_row if name in found])
            for name in names
            if _SUBSET not in name
        ]
        return [(name, own) for name, own in shown if any(len(m[2]) > 1 for _, m in own)]

    def _costs(self, section: Section) -> list[dict[str, Any]]:
        rows = []
        for label, own in section.records:
            trained = [r.trained for r in own if r.trained]
            where = [t["provenance"] for t in trained]
            rows.append(
                {
                    "label": label,
                    "runs": [(r, self.pages[r.name]) for r in own],
                    "seconds": charts.mean_seconds(section, label),
                    "cpu_seconds": charts.mean_seconds(section, label, "cpu_seconds"),
                    "evaluation": _mean(
                        [
                            sum(x["provenance"].get("seconds") or 0 for x in r.results)
                            for r in own
                            if r.results
                        ]
                    ),
                    "memory": max((p.get("peak_memory") or 0 for p in where), default=0),
                    "parameters": next((t.get("parameters") for t in trained), None),
                    "devices": sorted({_device(p) for p in where}),
                }
            )
        return sorted(rows, key=lambda row: (row["seconds"] is None, row["seconds"], row["label"]))

    def _sheets(self, section: Section) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """By kind: label, file and alternative text of the picture of each method's first seed."""
        kinds: dict[str, list[tuple[str, str, str]]] = {}
        for label, own in section.records:
            pictured = next((r for r in own if self._pictures(section, r)), None)
            for kind, file, alt in self._pictures(section, pictured) if pictured else ():
                kinds.setdefault(kind, []).append((label, file, alt))
        order = {kind: place for place, kind in enumerate(_PICTURES)}
        return sorted(kinds.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))

    def _pictures(self, section: Section, record: Record) -> list[tuple[str, str, str]]:
        """Copied once; kind, path from the root, alternative text."""
        found = []
        for result, file in self._files_of(section, record, "pictures"):
            name = f"pictures/{page_name(record.name)}/{page_name(file.stem)}.png"
            target = self.folder / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            kind = _kind_of(result, file)
            run = record.run
            alt = (
                f"{_picture_word(kind)} of {run['model']}, seed {run['seed']}, "
                f"on {run['dataset']}: {_described(kind)}"
            )
            found.append((kind, name, alt))
        return found

    def _files(self, section: Section, stem: str) -> list[tuple[str, str]]:
        """The section's tables as LaTeX and CSV, as wide as a page takes."""
        if not section.tables:
            return []
        (self.folder / "tables").mkdir(exist_ok=True)
        files = []
        tables = [*section.tables, *(t for _, own in section.studies for t in own)]
        parts = [part for table in tables for part in _split(table)]
        for form, end, word in (("latex", "tex", "LaTeX"), ("csv", "csv", "CSV")):
            name = f"tables/{stem}.{end}"
            text = render(parts, form) + "\n"
            (self.folder / name).write_text(text, encoding="utf-8", newline="\n")
            files.append((word, name))
        return files

    def _run(
        self,
        section: Section,
        page: dict[str, Any],
        label: str,
        record: Record,
        curves: tuple[str, str] | None,
    ) -> None:
        folder = section.folders[record.name]
        failure = folder.failed or {}
        origins = record.run.get("origins", {})
        self._page(
            self.pages[record.name],
            "run.html",
            root="../",
            record=record,
            label=label,
            section=section,
            home=page["page"],
            curves=curves,
            pictures=self._pictures(section, record),
            texts=[
                (_kind_of(result, file), file.read_text(encoding="utf-8", errors="replace"))
                for result, file in self._files_of(section, record, "texts")
            ],
            matrices=[m for m in matrices([record]).items() if _SUBSET not in m[0]],
            settings=[
                (key, value, *[*origins.get(key, ()), "", ""][:2])
                for key, value in sorted(record.run["settings"].items())
            ],
            scores=_scores(record),
            failure=failure,
            log=_log_tail(failure),
            events=[_event(e) for e in list(folder.events())[-_EVENTS:]] if failure else [],
            provenance=_flat(record.trained.get("provenance", {})),
            device=_device(record.trained.get("provenance", {})),
        )

    def _files_of(
        self, section: Section, record: Record, what: str
    ) -> Iterator[tuple[dict[str, Any], Path]]:
        """The "pictures" or "texts" of the evaluations that are shown, in order of their names."""
        root = section.folders[record.name].path
        named = sorted((name, i) for i, r in enumerate(record.results) for name in r.get(what, ()))
        for name, i in named:
            file = root / what / Path(name).name
            if file.is_file() and not file.is_symlink():
                yield record.results[i], file

    def _meanings(self) -> list[tuple[str, str]]:
        """The metrics of the first page in words; what differs by dataset, once each."""
        pairs = [(m, s.table_with(m).metrics[m][2]) for s in self.sections for m in s.headlines()]
        return sorted(dict.fromkeys((m, meaning) for m, meaning in pairs if meaning))

    def _overview(self) -> tuple[list[tuple[Section, str]], list[tuple[str, list]]]:
        """Columns, a section and headline each; a line a method.

        Its cells are of the preset's own settings; where only variants were measured, of the best,
        with what it varies.
        """
        columns = [(s, metric) for s in self.sections for metric in s.headlines()]
        lines: dict[str, list] = {}
        for place, (section, metric) in enumerate(columns):
            digits = section.table_with(metric).metrics[metric][1]
            for row, cell in section.ranked(metric, own=True):
                cells = lines.setdefault(row.method, [None] * len(columns))
                cells[place] = cells[place] or (cell, digits, variation(row.label))
        return columns, sorted(lines.items())


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
    drawing = charts.run_curves(folder.path.name, folder)
    return drawing and (drawing.title, as_svg(drawing))


def _kind_of(result: dict[str, Any], file: Path) -> str:
    """What a picture or text shows: "joint", "views-sheet"."""
    return file.stem.removeprefix("samples-").removesuffix(f"-{result['eval_id'][:LETTERS]}")


def _split(table: Table) -> list[Table]:
    """Given-modality counts apart from the protocol's main charts."""
    parts = []
    for wanted in (False, True):
        metrics = {
            name: facts
            for name, facts in table.metrics.items()
            if (_SUBSET in name) == wanted and not (wanted and _is_unmeasured(table, name))
        }
        rows = [r for r in table.rows if not wanted or set(metrics) & set(r.cells)]
        if metrics and rows:
            parts.append(replace(table, metrics=_ordered(metrics), rows=rows))
    return parts


def _ordered(metrics: dict[str, Any]) -> dict[str, Any]:
    """Cross before joint, as the protocol's figure that every method has."""
    return dict(sorted(metrics.items(), key=lambda item: not item[0].endswith("/cross")))


def _is_unmeasured(table: Table, name: str) -> bool:
    return not any(name in row.cells for row in table.rows)


def _family(table: Table) -> str:
    first = next(iter(table.metrics))
    if _SUBSET in first:
        return "Cross coherence by number of given modalities"
    names = {"fid": "FID", "kid": "KID"}
    family = first.split("/")[0]
    return names.get(family, family.capitalize())


def _short(name: str, table: Table) -> str:
    word = name.split("/", 1)[-1].removeprefix("subset-")
    return f"{word} given" if _SUBSET in name else word.replace("joint-classes", "joint classes")


def _scores(record: Record) -> list[tuple[str, str, str, str, int, str]]:
    """Summaries: metric, shown value, error and interval, items, meaning."""
    rows = []
    for result in record.results:
        facts = {m["name"]: m for m in result["metrics"]}
        for s in result["scores"]:
            if s["given"] or s["target"] is not None:
                continue
            about = facts.get(s["metric"], {"digits": 3, "meaning": ""})
            error = "" if s["stderr"] is None else f"{s['stderr']:.{about['digits']}f}"
            value = f"{s['value']:.{about['digits']}f}"
            ends = record.interval(s["metric"]) or ()
            interval = " to ".join(f"{end:.{about['digits']}f}" for end in ends)
            rows.append((s["metric"], value, error, interval, s["n"], about["meaning"]))
    return rows


def _log_tail(failure: dict[str, Any]) -> str:
    """The last lines of a failure's traceback."""
    text = str(failure.get("traceback") or "")
    return "\n".join(text.splitlines()[-_LOG_LINES:])


def _event(event: dict[str, Any]) -> str:
    facts = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("time", "kind"))
    return f"{event['kind']}: {facts}"


def _flat(facts: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        name = f"{above}{key}"
        rows += _flat(value, f"{name} ") if isinstance(value, dict) else [(name, value)]
    return rows


def _device(provenance: dict[str, Any]) -> str:
    if not provenance.get("device"):
        return ""
    threads = provenance.get("threads")
    many = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    return f"{provenance['device']}{many}"


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _picture_word(kind: str) -> str:
    return _PICTURES.get(kind, kind.capitalize())


def _study_names(section: Section) -> dict[str, str]:
    """The variants of ablations by row label; the preset's own settings are told."""
    rows = [*section.records, *section.varied]
    changed = {r.name for _, own in rows for r in own if r.run["overrides"]}
    names = {}
    for ablation, tables in section.studies:
        short = {label_of(ablation, variant): variant.name for variant in ablation.variants}
        for row in (row for table in tables for row in table.rows):
            own = " (the preset's)" if row.runs and changed.isdisjoint(row.runs) else ""
            names[row.label] = short.get(row.label, row.label) + own
    return names


def _sources(section: Section) -> list[str]:
    """What the data are, and how many tuples of them there are."""
    told = []
    for data in (record.run["data"] for record in section.runs):
        sizes = ", ".join(f"{n:,} {split}" for split, n in data.get("sizes", {}).items())
        told.append("; tuples: ".join(filter(None, (data["source"], sizes))))
    return list(dict.fromkeys(told))


def _described(kind: str) -> str:
    return {
        "joint": "one sample a column, one modality a row.",
        "cross": "a block a given modality, which is framed on top, the generated ones below.",
        "reconstruction": "real views and what was decoded of them.",
        "views-sheet": "the given view framed, the generated ones beside it, the truth below.",
        "consistency-sheet": "joint samples, and framed below each the training object that fits "
        "its outlines best.",
        "style-transfer": "source, reference (framed), what was made of them, and the truth below.",
    }.get(kind, "a sheet of pictures.")


def _sentence(kind: str) -> str:
    text = _described(kind)
    return text[0].upper() + text[1:]


def page_name(name: str) -> str:
    """A file name that is safe everywhere, and its own for each name."""
    spoken = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("+", "plus")).strip("-.")
    if spoken == name or spoken == name.replace("+", "plus"):
        return spoken
    return f"{spoken[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def signed(value: float, digits: int) -> str:
    """A difference with its sign."""
    return dashed(f"{value:+.{digits}f}")


def dashed(text: str) -> str:
    """Hyphens before figures as minus signs."""
    return re.sub(r"-(?=[\d.])", "−", text)


def duration(seconds: float | None) -> str:
    """Seconds in the unit that one thinks in."""
    if seconds is None:
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def memory(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.1f} GiB" if size else "not recorded"


def count(number: int | None) -> str:
    """A number of parameters in millions."""
    return "not recorded" if number is None else f"{number / 1e6:.1f} M"
