"""The command line of shala-bench: one file for each group of commands."""

from __future__ import annotations

import click

from shalabench import __version__
from shalabench.cli import admin, check, clean, exchange, new, read, run, tune
from shalabench.cli.options import EXITS, Group


@click.group(cls=Group, epilog=EXITS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="shala-bench")
def main() -> None:
    """Benchmark multimodal generative models that share one latent space."""


for _command in (
    run.run,
    tune.tune,
    exchange.evaluate,
    exchange.samples,
    exchange.weights,
    read.table,
    read.compare,
    read.report,
    read.figure,
    read.status,
    read.export,
    clean.clean,
    check.check,
    admin.list_,
    admin.config,
    admin.prepare,
    new.new,
    admin.classifiers,
):
    main.add_command(_command)
