"""Figures for a paper, as PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shalabench.analysis.learning import modalities_of
from shalabench.analysis.tables import tables_of
from shalabench.api.errors import BenchError, unknown
from shalabench.records.frame import Records, check_names, load
from shalabench.records.store import Store, write_whole
from shalabench.report import charts
from shalabench.report.drawing import FORMS, Drawing, as_file
from shalabench.report.modalities import by_modalities
from shalabench.report.prior_axis import by_prior
from shalabench.report.progress import progress
from shalabench.report.sections import Section, sections_of
from shalabench.report.words import page_name


def _first(draw: Callable) -> Callable:
    """Of a section's first headline metric."""
    return lambda section: draw(section, section.headlines()[0]) if section.headlines() else None


KINDS: dict[str, Callable[[Section], Drawing | None]] = {
    "tradeoff": charts.tradeoff,
    "curves": charts.curves,
    "heatmap": charts.heatmap,
    "dots": _first(charts.dots),
    "cost": _first(charts.cost),
    "angles": charts.angles,
    "priors": by_prior,
    "progress": progress,
}
MODALITIES = "modalities"
"""A figure across sections, which hold data with one number of modalities each."""


def write_figures(
    kind: str,
    stores: Sequence[Store],
    out: Path,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
    digits: tuple[int, ...] = (),
) -> tuple[list[Path], list[str]]:
    """Draw one kind of figure for every dataset and preset that has what it shows.

    Args:
        kind: One of KINDS, or MODALITIES.
        stores: Where records lie.
        out: A folder; made where missing.
        dataset, preset, models, split, digits: As `select` takes them.

    Returns:
        The files, and the records that were left out.

    Raises:
        BenchError: Nothing of what was asked can be drawn.
    """
    if kind not in (*KINDS, MODALITIES):
        raise BenchError(unknown("figure", kind, (*KINDS, MODALITIES)))
    records = select(stores, dataset, preset, models, split, digits)
    files: list[Path] = []
    for place, drawing in _across(records) if kind == MODALITIES else _within(kind, records):
        files += write_drawing(drawing, "-".join(filter(None, (kind, *place))), out)
    if records.runs.empty:
        raise BenchError(
            "There is no run of what was asked for. Ask for another dataset, preset, method or "
            "digits, or leave them out to draw what there is."
        )
    if not files:
        raise BenchError(
            f"No figure of kind '{kind}' can be drawn from {len(records.runs)} runs: what it "
            "shows was not measured. Ask for another dataset, preset, method or split."
        )
    return files, [f"{p.where}: {p.kind}: {p.text}" for p in records.problems]


def _within(kind: str, records: Records) -> Iterator[tuple[tuple[str, ...], Drawing]]:
    """The figures of one kind, each of a dataset, a preset and one version of its data."""
    for section in sections_of(records):
        if drawing := KINDS[kind](section):
            yield (section.dataset, section.preset, section.variant), drawing


def _across(records: Records) -> Iterator[tuple[tuple[str, ...], Drawing]]:
    """The figures by the number of modalities, with which the data differ."""
    counts = modalities_of(records)
    measured = any(
        name.startswith("coherence/") for r in records.all_results() for name in r.scored
    )
    for table in tables_of(records, "coherence", mix=True) if measured else ():
        if drawing := by_modalities(table, counts):
            yield (table.dataset, table.preset), drawing


def select(
    stores: Sequence[Store],
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
    digits: tuple[int, ...] = (),
) -> Records:
    """The runs that a figure is asked of.

    Args:
        stores: Where records lie.
        dataset: Only this one.
        preset: Only this one.
        models: Only these.
        split: What was measured on.
        digits: Only runs on data of just these digits; on any where empty.

    Raises:
        BenchError: There is no run at all, or a name is unknown.
    """
    records = load(stores, split)
    check_names(records, dataset, preset, models)
    records = records.select(dataset, preset, models)
    if digits:
        wanted = [own.get("data.digits") == list(digits) for own in records.runs["settings"]]
        records = records.of(records.runs[wanted])
    return records


def write_drawing(drawing: Drawing, name: str, out: Path) -> list[Path]:
    """Write a drawing in all forms under a safe name; the files are returned."""
    files = [out / f"{page_name(name)}.{form}" for form in FORMS]
    for file in files:
        write_whole(file, as_file(drawing, file.suffix[1:]), "--out")
    return files
