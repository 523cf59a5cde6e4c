"""Figures for a paper, as SVG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.api.errors import BenchError, unknown
from harness.gather import gather
from harness.report import figures
from harness.report.pages import page_name
from harness.report.sections import Section, sections_of
from harness.store import Store, write_whole


def _first(draw: Callable) -> Callable:
    """Of a section's first headline metric."""
    return lambda section: draw(section, section.headlines()[0]) if section.headlines() else None


KINDS: dict[str, Callable[[Section], figures.Drawing | None]] = {
    "tradeoff": figures.tradeoff,
    "curves": figures.curves,
    "heatmap": figures.heatmap,
    "dots": _first(figures.dots),
    "cost": _first(figures.cost),
    "angles": figures.angles,
}


def write_figures(
    kind: str,
    stores: Sequence[Store],
    out: Path,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
) -> tuple[list[Path], list[str]]:
    """Draw one kind of figure for every dataset and preset that has what it shows.

    Args:
        kind: One of KINDS.
        stores: Where records lie.
        out: A folder; made where missing.
        dataset: Only this one.
        preset: Only this one.
        models: Only these.
        split: What was measured on.

    Returns:
        The files, and the records that were left out.

    Raises:
        BenchError: Nothing of what was asked can be drawn.
    """
    if kind not in KINDS:
        raise BenchError(unknown("figure", kind, KINDS))
    found = gather(stores, split)
    fits = [
        dataset in (None, r.run["dataset"])
        and preset in (None, r.run["preset"])
        and (not models or r.run["model"] in models)
        for r in found.records
    ]
    found.records, found.folders = (
        [item for item, fit in zip(items, fits, strict=True) if fit]
        for items in (found.records, found.folders)
    )
    files = []
    for section in sections_of(found):
        if (drawing := KINDS[kind](section)) is None:
            continue
        names = (kind, section.dataset, section.preset, section.variant)
        stem = page_name("-".join(filter(None, names)))
        for form in ("svg", "pdf"):
            files.append(out / f"{stem}.{form}")
            write_whole(files[-1], figures.as_file(drawing, form))
    if not files:
        raise BenchError(
            f"No figure of kind '{kind}' can be drawn from {len(found.records)} runs: what it "
            "shows was not measured there. Ask for another dataset, preset, method or split."
        )
    return files, [f"{p.where}: {p.kind}: {p.told}" for p in found.problems]
