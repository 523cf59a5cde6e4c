"""The command that tunes."""

from __future__ import annotations

from typing import Any

import click

from shalabench.api.errors import BenchError
from shalabench.cli import complete
from shalabench.cli.engines import campaign_options, engine_options
from shalabench.cli.options import (
    Command,
    UserPath,
    archive_option,
    checkpoint_option,
    data_options,
    device_option,
    jobs_option,
    json_option,
    models_option,
    no_locks_option,
    parse_finite,
    set_option,
    threads_option,
    time_limit_option,
)
from shalabench.records.locations import default_store


@click.command(cls=Command)
@models_option
@click.option("--dataset", shell_complete=complete.datasets, help="Name of a dataset.")
@click.option(
    "--preset", shell_complete=complete.presets, help="Name of the preset to tune. Default: quick."
)
@click.option("--trials", type=click.IntRange(1), help="Number of settings to try for each method.")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    callback=parse_finite,
    help="CPU seconds of training after which no new settings of a method are tried.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the search and of the trainings.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    help="Number of seeds with which the chosen values must train without collapsing or diverging. "
    "Default: 3.",
)
@set_option
@click.option(
    "--studies",
    type=UserPath(file_okay=False),
    envvar="SHALA_STUDIES",
    default=lambda: default_store("studies"),
    help="Folder of studies and of the chosen values.  [$SHALA_STUDIES, or results/studies]",
)
@click.option(
    "--store",
    type=UserPath(file_okay=False),
    default=lambda: default_store("tuning"),
    help="Folder of the trainings. Default: results/tuning.",
)
@data_options
@device_option
@jobs_option
@engine_options
@time_limit_option
@checkpoint_option
@threads_option
@archive_option
@no_locks_option
@click.option(
    "--dials",
    is_flag=True,
    help="Choose temperatures and guidance scales instead, which need no training.",
)
@click.option("--show", is_flag=True, help="Only print the studies in --studies.")
@json_option
@click.pass_context
def tune(ctx: click.Context, show: bool, as_json: bool, **options: Any) -> None:
    """Tune methods on the validation split, all with the same number of settings.

    The best values become the preset PRESET-tuned of the dataset. With --dials, the best
    temperatures and guidance scales become PRESET-dials. After an interruption, the same command
    continues.
    """
    from shalabench.analysis.studies import render_studies
    from shalabench.records.study import read_studies

    if show:
        folder, dataset, preset = (options[key] for key in ("studies", "dataset", "preset"))
        click.echo(render_studies(read_studies(folder, dataset, preset), as_json))
        return
    study, code = _tune(options)
    click.echo(render_studies([study], as_json))
    ctx.exit(code)


def _tune(options: dict[str, Any]) -> tuple[Any, int]:
    dials, effort = options["dials"], ("trials", "budget")
    if dials and (unused := [f"--{name}" for name in (*effort, "seeds") if options[name]]):
        raise BenchError(
            f"{' and '.join(unused)} {'does' if len(unused) == 1 else 'do'} not go with --dials, "
            "which tries the same few values for every method. Leave it out."
        )
    needed = ("models", "dataset") if dials else ("models", "dataset", *effort)
    missing = [f"--{name}" for name in needed if not options[name]]
    if missing:
        raise BenchError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Write, for "
            "example, --models mvae,mopoe --dataset polydigits --trials 9 --budget 3000; the same "
            "with --dials in place of --trials and --budget; or --show."
        )
    from shalabench.config import tuned
    from shalabench.execute.dials import DialRequest, tune_dials
    from shalabench.execute.progress import Reporter
    from shalabench.execute.tuning import Request, tune

    preset = options["preset"] or "quick"
    asked = {key: options[key] for key in (*needed, "overrides", "seed")} | {"preset": preset}
    campaign = campaign_options(options)
    with Reporter() as reporter:
        where = options["studies"], campaign, reporter
        study: Any
        if dials:
            study, code = tune_dials(DialRequest(**asked), *where)
        else:
            study, code = tune(Request(**asked, seeds=options["seeds"] or 3), *where)
        if any(method.chosen not in (None, {}) for method in study.methods.values()):
            elsewhere = options["studies"].absolute() != tuned.study_folder().absolute()
            before = f" after: export SHALA_STUDIES={options['studies']}" if elsewhere else ""
            chosen = tuned.with_dials(preset) if dials else tuned.name_of(preset)
            reporter.say(f"Use the values with --preset {chosen}{before}")
    return study, code
