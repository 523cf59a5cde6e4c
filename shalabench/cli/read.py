"""The commands that read records: tables, comparisons, figures, reports, states, copies."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError
from shalabench.cli import complete
from shalabench.cli.options import (
    Command,
    UserPath,
    data_options,
    filter_options,
    json_option,
    parse_digits,
    parse_names,
    read_stores,
    reference_option,
    split_option,
    stores_option,
)


@click.command(cls=Command)
@click.option(
    "--metric",
    shell_complete=complete.metrics,
    help="A metric, such as coherence/joint, or the first part of several: coherence.",
)
@click.option("--ablation", help="Name of an ablation. Without --metric, its metric is shown.")
@filter_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "latex", "csv", "json"]),
    default="text",
    show_default=True,
    help="Format of the table.",
)
@split_option
@stores_option
@click.option(
    "--mix",
    is_flag=True,
    help="Average runs even if their code or their data differ.",
)
@click.option("--costs", is_flag=True, help="Show a second table: tuples, parameters, CPU time.")
@click.option(
    "--published",
    default="",
    metavar="SOURCE",
    help="Source of the published values, or all. Default: cui2026, the ShaLa paper.",
)
@click.option("--wide", is_flag=True, help="Show all columns, with costs and all published values.")
@click.option(
    "--columns",
    callback=parse_names,
    help="Only these metrics, separated by commas, such as joint,posterior. All are shown, even if "
    "the table is wider than the terminal.",
)
@click.option("--notes", is_flag=True, help="Show all notes below the table.")
@click.option(
    "--by",
    type=click.Choice(["prior", "tuples", "modalities"]),
    help="A column for each kind of prior, number of training tuples or number of modalities, in "
    "place of the published values.",
)
@reference_option
@json_option
def table(
    metric: str | None,
    ablation: str | None,
    form: Any,
    stores: tuple[Path, ...],
    mix: bool,
    costs: bool,
    published: str,
    wide: bool,
    by: str | None,
    columns: tuple[str, ...],
    notes: bool,
    reference: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Print measured values beside the published ones.

    A text table fits the terminal (80 columns without one). A note below names the columns that do
    not fit.

    * marks the best mean of a column, + the values that are not significantly worse, if all rows
    have three or more seeds. † marks a collapsed model, which is not ranked.
    """
    from shalabench.analysis.fitting import terminal_width
    from shalabench.analysis.tables import make_tables, render
    from shalabench.records.published import MAIN

    chosen: Any = None
    if ablation:  # other tables need no pydantic
        from shalabench.config.ablations import read_ablation

        chosen = read_ablation(ablation)
    metric = metric or (chosen.metric if chosen else None)
    if not metric:
        raise BenchError("Write --metric with a metric such as coherence, or --ablation.")
    read = read_stores(stores, *(("ablations",) if chosen else ()), reference=reference)
    source = MAIN if published in ("", "all") else published
    how: dict[str, Any] = {"mix": mix, "ablation": chosen, "source": source, "by": by or ""}
    tables = make_tables(read, metric, **how, **filters)
    shown: dict[str, Any] = {"costs": costs, "sources": published == "all", "wide": wide}
    shown |= {"columns": columns, "notes": notes, "width": terminal_width()}
    click.echo(render(tables, "json" if as_json else form, **shown))


@click.command(cls=Command)
@click.argument("a")
@click.argument("b")
@click.option(
    "--metric",
    shell_complete=complete.metrics,
    default="",
    help="Only metrics whose names begin with this.",
)
@filter_options
@split_option
@stores_option
@reference_option
@json_option
def compare(
    a: str, b: str, stores: tuple[Path, ...], reference: bool, as_json: bool, **filters: Any
) -> None:
    """Compare two methods, presets, commits or folders of records.

    The output shows the difference A minus B of each metric with its 95 % interval, and the
    settings that differ. It says which is better only after a test over three or more seeds a
    side; with fewer, the interval is over test items. A and B may also be rows of a table, such as
    "shala (condition on x)" or, with --reference, "shala (reference)".
    """
    from shalabench.analysis import compare as comparing
    from shalabench.analysis.comparisons import render_comparisons
    from shalabench.analysis.fitting import terminal_width
    from shalabench.analysis.variants import ablation_of

    more = ("ablations",) if ablation_of((a, b)) else ()
    read = read_stores(stores, *more, reference=reference)
    found = comparing.compare(a, b, read, **filters)
    click.echo(render_comparisons(*found, as_json, terminal_width()))


@click.command(cls=Command)
@click.argument("out", type=UserPath())
@split_option
@click.option(
    "--figures", is_flag=True, help="Also write each figure as PNG, SVG and PDF. Takes longer."
)
@stores_option
@reference_option
@json_option
def report(
    out: Path,
    split: str,
    figures: bool,
    stores: tuple[Path, ...],
    reference: bool,
    as_json: bool,
) -> None:
    """Write all records as a folder of web pages. Open OUT/index.html first.

    OUT is a new folder or a folder with an older report, which is replaced. The pages need no
    network.
    """
    from shalabench.execute.progress import Reporter
    from shalabench.report import build_report

    read = read_stores(stores, "ablations", reference=reference)
    with Reporter() as reporter:

        def step(what: str, done: int, total: int) -> None:
            event = {"kind": "evaluating", "evaluator": what, "done": done, "total": total}
            reporter.show("report", event)

        built = build_report(read, out, split, figures=figures, step=step)
    message = f"{built.pages} pages of {built.runs} runs: {out / 'index.html'}."
    if built.problems:
        message += f" {built.problems} records are left out; the first page lists them."
    click.echo(json.dumps(vars(built)) if as_json else message)


@click.command(cls=Command)
@click.argument(
    "kind",
    type=click.Choice(
        [
            *("tradeoff", "curves", "heatmap", "dots", "cost", "angles"),
            *("priors", "progress", "modalities", "latent"),
        ]
    ),
)
@click.option(
    "--out",
    type=UserPath(),
    default=Path("figures"),
    show_default=True,
    help="Folder for the figures.",
)
@filter_options
@click.option(
    "--digits", callback=parse_digits, help="Only runs on exactly these digits, such as 0,1."
)
@split_option
@stores_option
@reference_option
@data_options
def figure(
    kind: str,
    out: Path,
    stores: tuple[Path, ...],
    reference: bool,
    data_root: Path,
    cache_dir: Path,
    **filters: Any,
) -> None:
    """Draw a figure as PNG, SVG and PDF for each dataset and preset.

    \b
    tradeoff    coherence against FID, or cross against joint coherence
    curves      training losses
    heatmap     scores by given and target modality
    dots        each method beside the published values
    cost        image quality or coherence against training time
    angles      PSNR of unseen views by their angle to the given view
    priors      joint scores of each method by kind of prior
    progress    scores against training tuples and CPU hours
    modalities  coherence and CPU time against the number of modalities
    latent      prior and posterior latents of each method

    The figure `latent` needs the weights and the data of a run. Latents of two dimensions are drawn
    without projection, as in Figure 4 of the ShaLa paper. Latents of more dimensions are projected
    by PCA and by UMAP (extra: umap) or t-SNE. For a diffusion prior, several steps are drawn.
    """
    read = read_stores(stores, reference=reference)
    if kind == "latent":  # the only figure that needs torch
        from shalabench.api import DataPaths
        from shalabench.execute.trained import load_with_classifiers
        from shalabench.report.latents import write_latents

        load = partial(load_with_classifiers, paths=DataPaths(data_root, cache_dir))
        store = next(iter(stores), None)
        files, left_out = write_latents(read, out, load, store=store, **filters)
    else:
        from shalabench.report.paper import write_figures

        files, left_out = write_figures(kind, read, out, **filters)
    for text in left_out:
        click.echo(f"Left out: {text}", err=True)
    click.echo("\n".join(map(str, files)))


@click.command(cls=Command)
@stores_option
@click.option(
    "--outdated",
    is_flag=True,
    help="Only runs whose preset, method or data have changed since they were trained, with the "
    "changes. Slow: it imports every method.",
)
@click.option(
    "--verify", is_flag=True, help="Check the SHA-256 of each file; exit code 1 if one is damaged."
)
@json_option
@click.pass_context
def status(
    ctx: click.Context, stores: tuple[Path, ...], outdated: bool, verify: bool, as_json: bool
) -> None:
    """Print the state, stage, step, last loss, time left in the stage and folder of each run."""
    from shalabench.analysis.fitting import terminal_width
    from shalabench.analysis.status import describe, render_status

    folders = [folder for store in read_stores(stores) for folder in store.runs()]
    if verify:
        from shalabench.analysis import verify as verifying

        runs = [verifying.verify(folder) for folder in folders]
        click.echo(json.dumps(runs, indent=1) if as_json else verifying.render_verified(runs))
        ctx.exit(1 if any(run["damaged"] for run in runs) else 0)
    if outdated:
        from shalabench.analysis.outdated import describe_outdated

        states = describe_outdated(folders)
    else:
        states = [describe(folder) for folder in folders]
    click.echo(json.dumps(states, indent=1) if as_json else render_status(states, terminal_width()))


@click.command(cls=Command)
@click.argument("destination", type=UserPath())
@filter_options
@stores_option
@click.pass_context
def export(
    ctx: click.Context,
    destination: Path,
    dataset: str | None,
    preset: str | None,
    models: tuple[str, ...],
    stores: tuple[Path, ...],
) -> None:
    """Copy the records of finished runs to a folder, without weights and checkpoints.

    Without --dataset, --preset and --models, all are copied. Incomplete files in the folder are
    written again.
    """
    from shalabench.records.export import LeftOut

    def chosen(run: dict[str, Any]) -> bool:
        wanted = {"dataset": dataset, "preset": preset}
        named = all(value is None or run[key] == value for key, value in wanted.items())
        return named and (not models or run["model"] in models)

    copied, problems = 0, []
    for store in read_stores(stores):
        try:
            copied += store.export(destination, say=partial(click.echo, err=True), choose=chosen)
        except LeftOut as error:
            problems.append(error)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        ctx.exit(1)
    if not copied and any((dataset, preset, models)):
        raise BenchError(
            "No finished run has this dataset, preset and method. `shala-bench status` lists all."
        )
    click.echo(f"{copied} finished runs are recorded in {destination}.")
