"""The commands around runs: what exists, its settings, its data, its classifiers."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shalabench.api.errors import BenchError, unknown
from shalabench.cli import complete
from shalabench.cli.options import (
    EXITS,
    Command,
    Group,
    UserPath,
    data_options,
    dataset_option,
    device_option,
    json_option,
    parse_names,
    preset_option,
    set_option,
)

if TYPE_CHECKING:
    from shalabench.api.registry import Kind
    from shalabench.config.plan import Run

_KINDS: dict[str, Kind] = {"models": "model", "datasets": "dataset", "evaluators": "evaluator"}
_LISTS = (*_KINDS, "presets")
_BROKEN = "broken"


@click.command("list", cls=Command)
@click.argument("what", required=False)
@json_option
def list_(what: str | None, as_json: bool) -> None:
    """List models, datasets, evaluators and presets, and files that cannot be imported.

    WHAT is models, datasets, evaluators or presets. Without it, all four are listed.
    """
    if what is not None and what not in _LISTS:
        raise BenchError(unknown("kind", what, _LISTS))
    _print({kind: _describe(kind) for kind in ([what] if what else _LISTS)}, as_json)


@click.command(cls=Command)
@click.option(
    "--models",
    shell_complete=complete.models,
    required=True,
    callback=parse_names,
    help="Methods separated by commas, or all.",
)
@dataset_option
@preset_option
@set_option
@json_option
def config(
    models: tuple[str, ...], dataset: str, preset: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Print each setting of a run with its value, the layer that set it, and its source."""
    from shalabench.config.plan import plan

    runs = plan(models, dataset, preset, [0], overrides)
    _print({run.model: _describe_settings(run) for run in runs}, as_json)


def _print(tables: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    from shalabench.analysis.fitting import draw, terminal_width, wrap_note

    if as_json:
        click.echo(json.dumps(tables, indent=1))
        return
    width = terminal_width()
    parts = []
    for title, rows in tables.items():
        whole = [row for row in rows if row.get("version") != _BROKEN]
        lines = [draw([list(row.values()) for row in whole], list(whole[0]), width)]
        for row in (row for row in rows if row not in whole):
            lines.append(wrap_note(f"{row['name']} is broken: {row['about']}", width, ""))
        parts.append("\n".join([title, *lines]))
    click.echo("\n\n".join(parts))


def _describe(kind: str) -> list[dict[str, str]]:
    """Facts of each component of a kind, as plain values."""
    if kind == "presets":
        from shalabench.config.settings import describe_preset, presets

        return [{"name": name, "about": describe_preset(name)} for name in presets()]
    from shalabench.api import ABILITIES, has_ability
    from shalabench.api.registry import broken, entries

    rows = []
    for name, entry in entries(_KINDS[kind]).items():
        facts = {"name": name, "version": str(entry.version)}
        if kind == "models":
            able = [word for word, ability in ABILITIES.items() if has_ability(entry.cls, ability)]
            facts |= {"abilities": ", ".join(able), "paper": entry.paper}
        else:
            facts["about"] = (entry.cls.__doc__ or "").strip().partition("\n")[0]
        rows.append(facts)
    for item in broken(_KINDS[kind]):
        rows.append({"name": item.module, "version": _BROKEN, "about": item.reason})
    return rows


def _describe_settings(run: Run) -> list[dict[str, Any]]:
    """Each setting of a run with its origin and source, as plain values."""
    from shalabench.config.settings import DEFAULT

    origins = run.resolved.origins
    values = {**run.resolved.values(), **run.resolved.choices()}
    for key in sorted(origins.keys() - values.keys()):  # such as data.digits at its default
        values[key] = attrgetter(key)(run.resolved)
    return [
        {
            "setting": key,
            "value": value,
            "origin": origins[key].layer if key in origins else DEFAULT,
            "source": origins[key].source if key in origins else "",
        }
        for key, value in values.items()
    ]


@click.command(cls=Command)
@click.argument("dataset", shell_complete=complete.datasets)
@set_option
@data_options
def prepare(dataset: str, overrides: tuple[str, ...], data_root: Path, cache_dir: Path) -> None:
    """Download or generate the missing files of a dataset, then print its sizes."""
    from shalabench.api import DataPaths
    from shalabench.execute.inputs import prepare_dataset

    paths = DataPaths(data_root, cache_dir)
    spec = prepare_dataset(dataset, overrides, paths, download=True).spec
    sizes = ", ".join(f"{n:,} {name}" for name, n in spec.sizes.items())
    click.echo(f"{spec.name}: {spec.source}; {sizes}; fingerprint {spec.fingerprint[:12]}.")


@click.group(cls=Group, epilog=EXITS)
def classifiers() -> None:
    """Train the classifiers that measure coherence."""


@classifiers.command("train")
@dataset_option
@set_option
@data_options
@device_option
@click.option(
    "--out",
    type=UserPath(),
    help="Folder for the weights. Default: the folder of the packaged weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace weights that are part of the package.")
@click.option(
    "--updates", type=click.IntRange(1), help="Number of updates. Default: enough to converge."
)
def classifiers_train(
    dataset: str,
    overrides: tuple[str, ...],
    data_root: Path,
    cache_dir: Path,
    device: str,
    out: Path | None,
    overwrite: bool,
    updates: int | None,
) -> None:
    """Train a classifier for each modality, and store its weights, digest and accuracy.

    Packaged weights stay as they are unless --overwrite is given.
    """
    from shalabench.api import DataPaths
    from shalabench.execute.inputs import train_classifiers

    paths = DataPaths(data_root, cache_dir)
    for facts in train_classifiers(dataset, overrides, paths, device, out, updates, overwrite):
        click.echo(
            f"{facts['modality']}: accuracy {facts['accuracy']:.4f} on test, "
            f"{facts['validation']:.4f} on validation; {facts['digest'][:12]}"
        )
