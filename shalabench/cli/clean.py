"""The command that removes runs."""

from __future__ import annotations

from pathlib import Path

import click

from shalabench.api.errors import BenchError
from shalabench.cli.options import Command, UserPath, no_locks_option
from shalabench.records.locations import default_store
from shalabench.records.store import Store


@click.command(cls=Command)
@click.option(
    "--store",
    type=UserPath(file_okay=False),
    default=default_store,
    help="Folder of records. Default: results/runs.",
)
@click.option("--failed", is_flag=True, help="Runs whose training failed or diverged.")
@click.option(
    "--unfinished", is_flag=True, help="Runs that were stopped and that no process is training."
)
@click.option(
    "--other-code",
    is_flag=True,
    help="Finished runs whose method or shared networks have changed since. Slow: it imports every "
    "method.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@no_locks_option
def clean(
    store: Path,
    failed: bool,
    unfinished: bool,
    other_code: bool,
    dry_run: bool,
    yes: bool,
    no_locks: bool,
) -> None:
    """Remove failed, unfinished or outdated runs, with their weights and results.

    Without options, it removes failed and unfinished runs. Exported and unreadable records stay.
    """
    from shalabench.analysis.fitting import draw, terminal_width
    from shalabench.execute.cleaning import FAILED, OTHER_CODE, UNFINISHED, find_waste, remove

    asked = {FAILED: failed, UNFINISHED: unfinished, OTHER_CODE: other_code}
    kinds = [kind for kind, is_asked in asked.items() if is_asked] or [FAILED, UNFINISHED]
    found = list(find_waste(Store(store), kinds))
    if not found:
        click.echo(f"There is no run in {store} that is {' or of '.join(kinds)}.")
        return
    rows = [
        (w.folder.name, w.kind, f"{w.size / 1e6:.1f}", " ".join(w.reason.split())) for w in found
    ]
    click.echo(draw(rows, ("run", "kind", "MB", "reason"), terminal_width(), right=(2,)))
    size = sum(waste.size for waste in found) / 1e6
    question = f"Remove {len(found)} runs of {store} ({size:.1f} MB)?"
    if dry_run:
        click.echo(f"{len(found)} runs ({size:.1f} MB) would be removed.")
        return
    try:
        agreed = yes or click.confirm(question)
    except click.Abort as error:
        raise BenchError("Nothing was removed. Answer y, or add --yes or --dry-run.") from error
    if not agreed:
        click.echo("Nothing was removed.")
        return
    reasons = {waste.folder.name: remove(waste, locks=not no_locks) for waste in found}
    stays = {name: reason for name, reason in reasons.items() if reason}
    click.echo(f"{len(found) - len(stays)} runs were removed.")
    for name, reason in stays.items():
        click.echo(f"{name} stays: {reason}.", err=True)
