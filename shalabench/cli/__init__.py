"""The command line of shala-bench."""

from __future__ import annotations

import gc
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError, unknown

_RESULTS = Path(__file__).parent.parent.parent / "results"
_EXITS = "Exit codes: 0 all is well, 1 a run failed, 2 wrong input, 3 stopped before the end."


class _Command(click.Command):
    """States the exit codes in its help."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"epilog": _EXITS, **options})


class _Group(click.Group):
    """Prints a BenchError as its sentences, and names the nearest command."""

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise BenchError(unknown("command", args[0], self.commands))
        return super().resolve_command(ctx, args)


def _names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


def _seeds(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in value.removesuffix(",").split(","))
    except ValueError as error:
        raise BenchError(
            f"--seeds is '{value}'; a count such as 3, or a list such as 0,4 was expected."
        ) from error
    seeds = tuple(dict.fromkeys(numbers)) if "," in value else tuple(range(numbers[0]))
    if not seeds or min(seeds) < 0:
        raise BenchError(f"--seeds is '{value}'; give a count from 1 on, or a list from 0 on.")
    return seeds


def _digits(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    names = _names(_, __, value)
    if any(name not in tuple("0123456789") for name in names):
        raise BenchError(f"--digits is '{value}'; digits with commas between were expected: 0,1.")
    return tuple(sorted({int(name) for name in names}))


def _duration(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if not match:
        raise BenchError(f"--time-limit is '{value}'; a time such as 90s, 30m or 2h was expected.")
    return float(match[1]) * {"": 60, "s": 1, "m": 60, "h": 3600}[match[2]]


_data_options = (
    click.option(
        "--data-root",
        envvar="SHALA_DATA",
        type=click.Path(path_type=Path),
        default=Path("shala-data"),
        help="Where downloaded data lie (SHALA_DATA).",
    ),
    click.option(
        "--cache-dir",
        envvar="SHALA_CACHE",
        type=click.Path(path_type=Path),
        default=Path.home() / ".cache" / "shala-bench",
        help="Where generated data are kept (SHALA_CACHE).",
    ),
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a setting: model.latent_dim=32, models.shala.beta=1, data.modalities=10.",
)
_split_option = click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    help="What is measured on: validation for a choice of settings.  [test]",
)
_store_option = click.option(
    "--store",
    "stores",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Folder of records; results/runs by default, or results/reference where nothing was run.",
)


def _with(options: tuple[Any, ...]):
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(cls=_Group, epilog=_EXITS)
def main() -> None:
    """Benchmark of shared-latent multimodal generative models."""


@main.command()
@click.option("--models", callback=_names, help="Names with commas between, or all.")
@click.option(
    "--ablation", help="In place of --models: the variants of a file in configs/ablations."
)
@click.option("--dataset", required=True)
@click.option("--preset", default="quick", show_default=True)
@click.option(
    "--seeds", default="1", callback=_seeds, help="A count (3 is 0,1,2) or a list (0,4 or 4,).  [1]"
)
@_set_option
@_with(_data_options)
@click.option("--store", type=click.Path(path_type=Path), default=_RESULTS / "runs")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:n].")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes at a time.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local")
@click.option("--address", default="auto", help="Of the Ray cluster.")
@click.option("--gpus-per-run", type=float, default=1.0, help="GPUs a Ray task; may be a fraction.")
@click.option("--time-limit", callback=_duration, help="Stop cleanly after: 90s, 30m, 2h.")
@click.option("--checkpoint-every", type=float, default=60.0, help="Seconds.")
@click.option("--threads", type=click.IntRange(1), help="Torch threads a run.")
@click.option("--compile", "compiled", is_flag=True, help="Compile the networks.")
@click.option("--evaluators", callback=_names, help="Only these, with commas between.")
@_split_option
@click.option(
    "--classifiers",
    "archive",
    type=click.Path(exists=True, path_type=Path),
    help="Classifiers to use in place of the shipped ones.",
)
@click.option("--retry", is_flag=True, help="Take up runs that failed before.")
@_json_option
@click.pass_context
def run(ctx: click.Context, **options: Any) -> None:
    """Train and evaluate methods, then print a table of what the data are judged by.

    What is done is not done again; what was cut off goes on where it stopped.
    """
    from shalabench.api import DataPaths
    from shalabench.config.plan import plan, plan_ablation
    from shalabench.execute.campaign import Options, drive
    from shalabench.execute.progress import Reporter

    ablation = _ablation(options["ablation"], options["models"])
    limit = options["time_limit"]
    overrides = options["overrides"] + (("train.compile=true",) if options["compiled"] else ())
    work = (
        options["dataset"],
        options["preset"],
        options["seeds"],
        overrides,
        options["evaluators"],
    )
    runs = plan_ablation(ablation, *work) if ablation else plan(options["models"], *work)
    with Reporter() as reporter:
        summary = drive(
            runs,
            Options(
                store=options["store"],
                paths=DataPaths(options["data_root"], options["cache_dir"]),
                evaluators=options["evaluators"],
                split=options["split"],
                archive=options["archive"],
                device=options["device"],
                jobs=options["jobs"],
                engine=options["engine"],
                address=options["address"],
                gpus=options["gpus_per_run"],
                deadline=time.time() + limit if limit is not None else None,
                checkpoint_every=options["checkpoint_every"],
                threads=options["threads"],
                retry=options["retry"],
            ),
            reporter,
        )
    filters = {key: options[key] for key in ("dataset", "preset", "split")}
    filters |= {"ablation": ablation} if ablation else {"models": options["models"]}
    _print_table(options["store"], options["as_json"], **filters)
    ctx.exit(summary.exit_code)


def _ablation(name: str | None, models: tuple[str, ...]) -> Any:
    from shalabench.config.ablations import ablations, read_ablation

    if name and models:
        raise BenchError(
            f"The ablation '{name}' says which method is run: leave --models, or --ablation, out."
        )
    if not name and not models:
        raise BenchError(
            "No model is named; write --models shala, or --models all, or --ablation with one of "
            f"{', '.join(ablations())}."
        )
    return read_ablation(name) if name else None


def _print_table(store: Path, as_json: bool, models: tuple[str, ...] = (), **filters: Any) -> None:
    from shalabench.analysis.tables import make_tables, render
    from shalabench.records.store import Store

    models = () if models == ("all",) else models
    reason = None
    for metric in ("coherence", "attributes", "psnr", "fid"):  # the first that the data have
        try:
            tables = make_tables([Store(store)], metric, models=models, **filters)
        except BenchError as error:  # the runs are recorded; a table is only a view of them
            reason = reason or error
            continue
        click.echo(render(tables, "json" if as_json else "text"))
        return
    click.echo(f"No table: {reason}", err=True)


def _stores(given: tuple[Path, ...], *committed: str) -> list[Path]:
    """The stores to read: those named, else the runs that are here, else what is committed."""
    for path in given:
        if not path.is_dir():
            raise BenchError(
                f"--store is '{path}', and there is no such folder. Name one of records."
            )
    if given:
        return list(given)
    from shalabench.records.store import Store

    if Store(_RESULTS / "runs").has_runs():
        return [_RESULTS / "runs"]
    found = [f"results/{name}" for name in ("reference", *committed)]
    told = " and ".join(found)
    click.echo(f"No runs here yet: the committed records of {told} are read.", err=True)
    return [_RESULTS.parent / name for name in found]


@main.command()
@click.option("--metric", help="A metric, or the beginning of several: coherence.")
@click.option("--ablation", help="The variants of a file in configs/ablations; names a metric too.")
@click.option("--dataset")
@click.option("--preset")
@click.option("--models", callback=_names)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown", "latex", "csv", "json"]),
    default="text",
)
@_split_option
@_store_option
@click.option("--mix", is_flag=True, help="Average runs of different code or data all the same.")
@_json_option
def table(
    metric: str | None,
    ablation: str | None,
    form: str,
    stores: tuple[Path, ...],
    mix: bool,
    as_json: bool,
    **filters: Any,
) -> None:
    """Print measured figures beside the published ones. * marks the best and its equals."""
    from shalabench.analysis.tables import make_tables, render
    from shalabench.records.store import Store

    varied = _ablation(ablation, ()) if ablation else None
    metric = metric or (varied and varied.metric)
    if not metric:
        raise BenchError("Write --metric with a metric such as coherence, or --ablation.")
    found = [Store(path) for path in _stores(stores, *(("ablations",) if varied else ()))]
    tables = make_tables(found, metric, mix=mix, ablation=varied, **filters)
    click.echo(render(tables, "json" if as_json else form))


@main.command()
@click.argument("a")
@click.argument("b")
@click.option("--metric", default="", help="Only metrics that begin so.")
@click.option("--dataset")
@click.option("--preset")
@click.option("--models", callback=_names)
@_split_option
@_store_option
@_json_option
def compare(a: str, b: str, stores: tuple[Path, ...], as_json: bool, **filters: Any) -> None:
    """Compare two methods, presets, commits or folders of records, A minus B.

    Says what differs in the configuration, then each metric's difference with its 95 % interval:
    over paired seeds where both have two or more in common. A row of a table may be named in full,
    of an ablation's table too: "shala (condition on x)".
    """
    from shalabench.analysis import compare as comparing
    from shalabench.analysis.variants import ablation_of
    from shalabench.records.store import Store

    committed = ("ablations",) if ablation_of((a, b)) else ()
    here = [Store(path) for path in _stores(stores, *committed)]
    click.echo(comparing.render_comparisons(*comparing.compare(a, b, here, **filters), as_json))


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@_split_option
@_store_option
@_json_option
def report(out: Path, split: str, stores: tuple[Path, ...], as_json: bool) -> None:
    """Write the records of all stores as a folder of pages, of which OUT/index.html is the first.

    OUT is made, or replaced where it holds an older report. The pages need no network.
    """
    from shalabench.records.store import Store
    from shalabench.report import build_report

    built = build_report([Store(path) for path in _stores(stores, "ablations")], out, split)
    told = f"{built.pages} pages of {built.runs} runs: {out / 'index.html'}."
    if built.problems:
        told += f" {built.problems} records are left out; the first page names them."
    click.echo(json.dumps(vars(built)) if as_json else told)


@main.command()
@click.argument(
    "kind",
    type=click.Choice(["tradeoff", "curves", "heatmap", "dots", "cost", "angles", "latent"]),
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("figures"), show_default=True)
@click.option("--dataset")
@click.option("--preset")
@click.option("--models", callback=_names)
@click.option("--digits", callback=_digits, help="Only runs on these digits alone: 0,1.")
@_split_option
@_store_option
@_with(_data_options)
def figure(
    kind: str,
    out: Path,
    stores: tuple[Path, ...],
    data_root: Path,
    cache_dir: Path,
    **filters: Any,
) -> None:
    """Draw a figure for a paper, as SVG and PDF, one for each dataset and preset.

    tradeoff: coherence against FID, or cross against joint; curves: training losses; heatmap:
    given x target; dots: every method beside the printed figures; cost: quality against time;
    angles: PSNR of unseen views by their angle to the given one.

    latent: prior and posterior of each method, from a run's weights and its data: as they are in
    two dimensions, with the way of the diffusion prior between them (the paper's Figure 4; --digits
    picks such runs), by PCA and by UMAP, or t-SNE where umap-learn is not installed, in more.
    """
    from shalabench.records.store import Store

    found = [Store(path) for path in _stores(stores)]
    if kind == "latent":
        from shalabench.api import DataPaths
        from shalabench.report.latents import (
            write_latents,  # needs torch, as the other kinds do not
        )

        paths, named = DataPaths(data_root, cache_dir), next(iter(stores), None)
        files, left_out = write_latents(found, out, paths, store=named, **filters)
    else:
        from shalabench.report.paper import write_figures

        files, left_out = write_figures(kind, found, out, **filters)
    for text in left_out:
        click.echo(f"Left out: {text}", err=True)
    click.echo("\n".join(map(str, files)))


@main.command(
    epilog="Exit codes: 0 all gates hold, 1 a regression, 2 incomplete or wrong input, 3 not "
    "comparable."
)
@click.option(
    "--reference",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=_RESULTS / "reference" / "gate",
    show_default="results/reference/gate",
    help="Folder of reference records.",
)
@click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=_RESULTS / "check",
    show_default="results/check",
    help="Where the new runs lie.",
)
@click.option("--run", "run_first", is_flag=True, help="Make the new runs that are missing first.")
@click.option("--seeds", help="New seeds, in place of those of the reference's gates.json.")
@_with(_data_options)
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes at a time.")
@click.option("--threads", type=click.IntRange(1), help="Torch threads a run.")
@_json_option
@click.pass_context
def check(
    ctx: click.Context,
    reference: Path,
    store: Path,
    run_first: bool,
    seeds: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Test new runs against reference runs, in the bad direction only."""
    from shalabench.analysis.check import check as check_runs
    from shalabench.analysis.check import read_gates, render_check, report_json, work_of
    from shalabench.records.store import Store

    unmade = {}
    if store.is_file():
        raise BenchError(f"--store is '{store}', which is a file. Name a folder of records.")
    if seeds and not run_first:
        raise BenchError("--seeds says which runs --run makes. Add --run, or leave --seeds out.")
    if run_first:
        chosen = _seeds(ctx, None, seeds) if seeds else read_gates(reference).get("seeds")
        if not chosen:
            raise BenchError(
                f"{reference} names no seeds for new runs. Add --seeds 100,101,102, or a "
                "gates.json with 'seeds'."
            )
        unmade = _run_work(*work_of(reference), chosen, store, options)
    report = check_runs(reference, [Store(store)], unmade=unmade)
    click.echo(report_json(report) if as_json else render_check(report))
    ctx.exit(report.exit_code)


def _run_work(
    works: list[Any],
    evaluators: tuple[str, ...],
    seeds: list[int],
    store: Path,
    options: dict[str, Any],
) -> dict[str, str]:
    """Make the new runs; those that cannot be judged, with the reason."""
    from shalabench.analysis.check import not_judged
    from shalabench.api import DataPaths
    from shalabench.config.plan import plan
    from shalabench.execute.campaign import Options, drive
    from shalabench.execute.progress import Reporter
    from shalabench.execute.provenance import describe_checkout

    runs = [
        run
        for work in works
        for run in plan([work.model], work.dataset, work.preset, seeds, work.overrides)
    ]
    paths = DataPaths(options["data_root"], options["cache_dir"])
    checkout = describe_checkout()
    with Reporter() as reporter:
        summary = drive(
            runs,
            Options(
                store=store,
                paths=paths,
                evaluators=evaluators,
                jobs=options["jobs"],
                threads=options["threads"],
            ),
            reporter,
        )
    outcomes = summary.outcomes.items()
    return not_judged({key: (o.status, o.text, o.folder) for key, o in outcomes}, checkout)


@main.command()
@_store_option
@click.option(
    "--outdated",
    is_flag=True,
    help="Only runs whose preset gives other settings today, and which; imports every method.",
)
@_json_option
def status(stores: tuple[Path, ...], outdated: bool, as_json: bool) -> None:
    """Say how every run of a store stands."""
    from shalabench.analysis.status import describe, render_status
    from shalabench.records.store import Store

    folders = [folder for path in _stores(stores) for folder in Store(path).runs()]
    if outdated:
        from shalabench.analysis.outdated import describe_outdated

        found = describe_outdated(folders)
    else:
        found = [describe(folder) for folder in folders]
    click.echo(json.dumps(found, indent=1) if as_json else render_status(found))


@main.command()
@click.argument("destination", type=click.Path(path_type=Path))
@_store_option
def export(destination: Path, stores: tuple[Path, ...]) -> None:
    """Copy the records of finished runs to a folder, without weights and checkpoints."""
    from shalabench.records.store import Store

    copied = sum(Store(path).export(destination) for path in _stores(stores))
    click.echo(f"{copied} finished runs are recorded in {destination}.")


@main.command("list")
@click.argument("what", required=False)
@_json_option
def list_(what: str | None, as_json: bool) -> None:
    """List models, datasets, evaluators or presets, and what is broken and why."""
    from shalabench.cli.listing import KINDS, describe_all, render_all

    if what is not None and what not in KINDS:
        raise BenchError(unknown("kind", what, KINDS))
    found = describe_all([what] if what else list(KINDS))
    click.echo(json.dumps(found, indent=1) if as_json else render_all(found))


@main.command()
@click.option("--models", required=True, callback=_names)
@click.option("--dataset", required=True)
@click.option("--preset", default="quick", show_default=True)
@_set_option
@_json_option
def config(
    models: tuple[str, ...], dataset: str, preset: str, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Print every setting of a run with its origin and its source."""
    from shalabench.cli.listing import describe_settings, render_settings
    from shalabench.config.plan import plan

    found = {r.model: describe_settings(r) for r in plan(models, dataset, preset, [0], overrides)}
    click.echo(json.dumps(found, indent=1) if as_json else render_settings(found))


@main.command()
@click.argument("dataset")
@_set_option
@_with(_data_options)
def prepare(dataset: str, overrides: tuple[str, ...], data_root: Path, cache_dir: Path) -> None:
    """Download what a dataset lacks, generate what is generated, and say what is there."""
    from shalabench.api import DataPaths
    from shalabench.execute.inputs import prepare_dataset

    paths = DataPaths(data_root, cache_dir)
    spec = prepare_dataset(dataset, overrides, paths, download=True).spec
    sizes = ", ".join(f"{n:,} {name}" for name, n in spec.sizes.items())
    click.echo(f"{spec.name}: {spec.source}; {sizes}; fingerprint {spec.fingerprint[:12]}.")


@main.group(cls=_Group, epilog=_EXITS)
def classifiers() -> None:
    """The modality classifiers that judge coherence."""


@classifiers.command("train")
@click.option("--dataset", required=True)
@_set_option
@_with(_data_options)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:n].")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; the shipped one by default.")
@click.option("--updates", type=click.IntRange(1), help="Fewer, for a trial, or more.")
def classifiers_train(
    dataset: str,
    overrides: tuple[str, ...],
    data_root: Path,
    cache_dir: Path,
    device: str,
    out: Path | None,
    updates: int | None,
) -> None:
    """Train one classifier a modality and store its weights with digest and accuracy."""
    from shalabench.api import DataPaths
    from shalabench.execute.inputs import train_classifiers

    paths = DataPaths(data_root, cache_dir)
    for facts in train_classifiers(dataset, overrides, paths, device, out, updates):
        click.echo(
            f"{facts['modality']}: accuracy {facts['accuracy']:.4f} on test, "
            f"{facts['validation']:.4f} on validation; {facts['digest'][:12]}"
        )


if __name__ == "__main__":
    sys.exit(main())
