"""The regression gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError
from shalabench.cli.engines import campaign_options
from shalabench.cli.options import (
    Command,
    UserPath,
    data_options,
    jobs_option,
    json_option,
    no_locks_option,
    parse_seeds,
    threads_option,
)
from shalabench.records.locations import committed, default_store


@click.command(
    cls=Command,
    epilog="Exit codes: 0 no regression, 1 a regression, 2 incomplete or wrong input, 3 not "
    "comparable.",
)
@click.option(
    "--reference",
    type=UserPath(exists=True, file_okay=False),
    default=lambda: committed() / "reference" / "gate",
    show_default="results/reference/gate",
    help="Folder of reference records.",
)
@click.option(
    "--store",
    type=UserPath(),
    default=lambda: default_store("check"),
    show_default="results/check",
    help="Folder of the new runs.",
)
@click.option("--run", "run_first", is_flag=True, help="First train the new runs that are missing.")
@click.option(
    "--seeds", callback=parse_seeds, help="Seeds of the new runs, instead of those in gates.json."
)
@data_options
@jobs_option
@threads_option
@no_locks_option
@json_option
@click.pass_context
def check(
    ctx: click.Context,
    reference: Path,
    store: Path,
    run_first: bool,
    seeds: tuple[int, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Test whether new runs are worse than reference runs."""
    from shalabench.analysis.check import check as check_runs
    from shalabench.analysis.check import read_gates, render_check, report_json
    from shalabench.records.store import Store

    if store.is_file():
        raise BenchError(f"--store is '{store}', which is a file. Write a folder of records.")
    if seeds and not run_first:
        raise BenchError("--seeds chooses the runs that --run makes. Add --run or remove --seeds.")
    excluded: dict[str, str] = {}
    if run_first:
        chosen = seeds or read_gates(reference).get("seeds")
        if not chosen:
            raise BenchError(
                f"{reference} names no seeds for new runs. Add --seeds 100,101,102, or a "
                "gates.json with 'seeds'."
            )
        excluded = _make_runs(reference, chosen, store, options)
    report = check_runs(reference, [Store(store)], unmade=excluded)
    click.echo(report_json(report) if as_json else render_check(report))
    ctx.exit(report.exit_code)


def _make_runs(
    reference: Path, seeds: Sequence[int], store: Path, options: dict[str, Any]
) -> dict[str, str]:
    """Make the new runs; returns those that cannot be compared, with the reason."""
    from shalabench.analysis.check import not_judged, work_of
    from shalabench.config.plan import plan
    from shalabench.execute.campaign import run_campaign
    from shalabench.execute.progress import Reporter
    from shalabench.execute.provenance import describe_checkout

    works, evaluators = work_of(reference)
    runs = [
        run
        for work in works
        for run in plan([work.model], work.dataset, work.preset, seeds, work.overrides)
    ]
    settings = campaign_options(options, store=store, evaluators=evaluators)
    checkout = describe_checkout()
    with Reporter() as reporter:
        outcomes = run_campaign(runs, settings, reporter).outcomes.items()
    return not_judged({key: (o.status, o.text, o.folder) for key, o in outcomes}, checkout)
