"""Options of the engines that carry runs out: this machine, Ray, Slurm."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from shalabench.api.errors import BenchError
from shalabench.cli.options import parse_duration, parse_finite

if TYPE_CHECKING:
    from shalabench.execute.options import Options


def parse_pairs(_: Any, option: Any, values: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Keys and values of texts such as account=vision.

    Raises:
        BenchError: A text has no key or no value.
    """
    pairs = []
    for text in values:
        key, _, value = text.partition("=")
        if not key or not value:
            raise BenchError(f"{option.opts[0]} is '{text}'. Write KEY=VALUE, as account=vision.")
        pairs.append((key.strip().removeprefix("--"), value.strip()))
    return tuple(pairs)


def engine_options(command: Callable) -> Callable:
    """Add --engine and the options of engines, which `campaign_options` reads."""
    options = (
        click.option(
            "--engine",
            type=click.Choice(["local", "ray", "slurm"]),
            default="local",
            show_default=True,
            help="Run on this machine, on a Ray cluster (extra: ray) or by Slurm (extra: slurm).",
        ),
        click.option(
            "--address", default="auto", show_default=True, help="Address of the Ray cluster."
        ),
        click.option(
            "--gpus-per-run",
            type=float,
            callback=parse_finite,
            default=1.0,
            show_default=True,
            help="GPUs for each run; 0: use the CPU. Ray takes fractions. On this machine, runs "
            "are spread over the GPUs.",
        ),
        click.option("--partition", help="Slurm partition. Default: that of the cluster."),
        click.option(
            "--job-time",
            default="1h",
            show_default=True,
            callback=parse_duration,
            help="Time limit of a Slurm job, such as 30m or 24h. A longer run continues in a new "
            "job.",
        ),
        click.option("--job-array", is_flag=True, help="Submit the runs as one Slurm job array."),
        click.option(
            "--sbatch",
            multiple=True,
            metavar="KEY=VALUE",
            callback=parse_pairs,
            help="Another option of sbatch, such as account=vision; may be repeated.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def campaign_options(options: Mapping[str, Any], **more: Any) -> Options:
    """How runs are carried out, as a command was asked.

    Args:
        options: Of the command. Those that are called as a field of `Options` set it.
        more: Other fields.

    Raises:
        BenchError: As `read_engine` says.
    """
    from shalabench.api import DataPaths
    from shalabench.execute.options import Options

    same = {field.name for field in fields(Options)} & options.keys()
    limit = options.get("time_limit")
    return Options(
        **{name: options[name] for name in same},
        **(read_engine(options) if "engine" in options else {}),
        paths=DataPaths(options["data_root"], options["cache_dir"]),
        locks=not options["no_locks"],
        deadline=None if limit is None else time.time() + limit,
        **more,
    )


def read_engine(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Options` that options of other names set.

    Raises:
        BenchError: --job-time is shorter than a minute, or an option does not go with the engine.
    """
    from shalabench.execute.options import SlurmOptions

    slurm = SlurmOptions(
        options["partition"],
        int(options["job_time"] // 60),
        options["job_array"],
        options["sbatch"],
    )
    if slurm.minutes < 1:
        raise BenchError("--job-time is shorter than a minute, which Slurm counts in. Write 5m.")
    if options["engine"] != "slurm" and slurm != SlurmOptions():
        raise BenchError(
            "--partition, --job-time, --job-array and --sbatch are for Slurm, and the engine is "
            f"'{options['engine']}'. Add --engine slurm, or leave them out."
        )
    return {"gpus": options["gpus_per_run"], "slurm": slurm}
