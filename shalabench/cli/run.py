"""The command that trains and evaluates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError
from shalabench.cli.engines import campaign_options, engine_options
from shalabench.cli.options import (
    Command,
    UserPath,
    archive_option,
    checkpoint_option,
    data_options,
    dataset_option,
    device_option,
    evaluators_option,
    jobs_option,
    json_option,
    models_option,
    no_locks_option,
    parse_names,
    parse_priors,
    parse_seeds,
    parse_tuples,
    preset_option,
    set_option,
    split_option,
    threads_option,
    time_limit_option,
)
from shalabench.records.locations import default_store


@click.command(cls=Command)
@models_option
@click.option("--ablation", help="Name of an ablation, to run its variants. Replaces --models.")
@dataset_option
@preset_option
@click.option(
    "--seeds",
    default="1",
    show_default=True,
    callback=parse_seeds,
    help="A count (3 means 0,1,2) or a list (0,4). A list of one seed ends with a comma: 4,",
)
@click.option(
    "--tuples",
    callback=parse_tuples,
    help="Numbers of training tuples of the first stage, such as 0.1M,1M: a run for each. With the "
    "schedule wsd, each run continues the previous one.",
)
@click.option(
    "--priors",
    callback=parse_priors,
    help="Priors separated by commas (own, gmm, diffusion): a run for each.",
)
@set_option
@data_options
@click.option(
    "--store",
    type=UserPath(),
    default=default_store,
    help="Folder for the records. Default: results/runs in the clone or, without a clone, in the "
    "current folder.",
)
@device_option
@jobs_option
@engine_options
@time_limit_option
@checkpoint_option
@threads_option
@no_locks_option
@click.option(
    "--compile", "compiled", is_flag=True, help="Compile the networks with torch.compile."
)
@evaluators_option
@split_option
@archive_option
@click.option(
    "--log",
    "trackers",
    callback=parse_names,
    help="Also write a log for these trackers, separated by commas: tensorboard, wandb, mlflow, "
    "trackio (extras of these names).",
)
@click.option("--retry", is_flag=True, help="Repeat runs that failed before.")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="List for each run the evaluators that do not apply, with the reason. Without it, each "
    "reason is shown once.",
)
@json_option
@click.pass_context
def run(ctx: click.Context, **options: Any) -> None:
    """Train and evaluate methods, then print a table of the main metric.

    Finished work is not repeated. An interrupted run continues from its last checkpoint.
    """
    from shalabench.config.plan import plan_ablation, plan_points
    from shalabench.execute.campaign import run_campaign
    from shalabench.execute.progress import Reporter

    ablation = _read_ablation(options["ablation"], options["models"])
    overrides = options["overrides"] + (("train.compile=true",) if options["compiled"] else ())
    work = (
        options["dataset"],
        options["preset"],
        options["seeds"],
        overrides,
        options["evaluators"],
    )
    points = {name: options[name] for name in ("tuples", "priors")}
    if ablation and any(points.values()):
        raise BenchError("--tuples and --priors do not go with --ablation. Leave either out.")
    runs = (
        plan_ablation(ablation, *work)
        if ablation
        else plan_points(options["models"], *work, **points)
    )
    if options["tuples"]:
        _tell_of_schedules(runs)
    with Reporter() as reporter:
        summary = run_campaign(runs, campaign_options(options), reporter)
    filters = {key: options[key] for key in ("dataset", "preset", "split")}
    filters |= {"ablation": ablation} if ablation else {"models": options["models"]}
    ended = {outcome.status for outcome in summary.outcomes.values()}
    if ended & {"done", "already"}:
        print_table(options["store"], options["as_json"], **filters)
    else:
        _print_none("none of these runs has finished.", options["as_json"])
    ctx.exit(summary.exit_code)


def _tell_of_schedules(runs: Sequence[Any]) -> None:
    """Say which methods train anew for each number of tuples."""
    schedules = {r.model: getattr(r.resolved.model, "optimiser", None) for r in runs}
    others = [model for model, own in schedules.items() if own and own.schedule != "wsd"]
    if others:
        click.echo(
            f"Each number of tuples is trained from the start by {', '.join(others)}, because "
            "model.optimiser.schedule is not wsd.",
            err=True,
        )


def _read_ablation(name: str | None, models: tuple[str, ...]) -> Any:
    from shalabench.config.ablations import ablations, read_ablation

    if name and models:
        raise BenchError(
            f"The ablation '{name}' already names its method. Leave out --models or --ablation."
        )
    if not name and not models:
        raise BenchError(
            "No model is named. Write --models shala, --models all, or --ablation with one of "
            f"{', '.join(ablations())}."
        )
    return read_ablation(name) if name else None


def print_table(store: Path, as_json: bool, models: tuple[str, ...] = (), **filters: Any) -> None:
    """Print the table of the first headline metric that the runs have."""
    from shalabench.analysis.fitting import terminal_width
    from shalabench.analysis.tables import make_tables, render
    from shalabench.records.store import Store

    models = () if models == ("all",) else models
    reason = None
    for metric in headline_metrics():
        try:
            tables = make_tables([Store(store)], metric, models=models, **filters)
        except BenchError as error:  # the runs are recorded; a table only shows them
            reason = reason or error
            continue
        shown = render(tables, "json" if as_json else "text", width=terminal_width(), notes=False)
        click.echo(shown)
        return
    _print_none(str(reason), as_json)


def _print_none(reason: str, as_json: bool) -> None:
    """Say why there is no table; a reader of JSON gets an empty list."""
    click.echo(f"No table: {reason}", err=True)
    if as_json:
        click.echo("[]")


def headline_metrics() -> list[str]:
    """Families of metrics, such as "psnr", in the order in which a table of them is tried.

    First those with a headline metric, as the registered evaluators declare it; among them, metrics
    that depend on the number of samples come last. Then the other metrics of methods.
    """
    from shalabench.api.registry import entries

    evaluators: list[Any] = [entry.cls for entry in entries("evaluator").values()]
    metrics = [metric for evaluator in evaluators for metric in evaluator.metrics]
    metrics = [metric for metric in metrics if metric.role == "method"]
    metrics.sort(key=lambda metric: (not metric.headline, metric.biased))
    return list(dict.fromkeys(metric.name.split("/")[0] for metric in metrics))
