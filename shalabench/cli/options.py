"""What the commands share: options, their parsers, exit codes and the display of errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError, unknown
from shalabench.api.files import expand_home
from shalabench.records.locations import CACHE, DATA_ROOT, default_store, default_stores
from shalabench.records.store import Store

EXITS = "Exit codes: 0 success, 1 a run failed, 2 wrong input, 3 stopped before the end."


class Command(click.Command):
    """A command whose help states the exit codes."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"epilog": EXITS, **options})


class Group(click.Group):
    """A group of commands that prints a BenchError without a traceback."""

    command_class = Command

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


class UserPath(click.Path):
    """A path as users write it: ~ is the home folder, also where no shell has expanded it."""

    def __init__(self, **options: Any):
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return super().convert(expand_home(value), param, ctx)


def parse_names(_: Any, __: Any, value: str | None) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


def parse_seeds(_: Any, __: Any, value: str | None) -> tuple[int, ...]:
    """The seeds of a count or a list; none where the option is missing.

    Raises:
        BenchError: The text is neither.
    """
    if value is None:
        return ()
    try:
        numbers = tuple(int(part) for part in value.removesuffix(",").split(","))
    except ValueError as error:
        raise BenchError(
            f"--seeds is '{value}'. Write a count such as 3, or a list such as 0,4."
        ) from error
    seeds = tuple(dict.fromkeys(numbers)) if "," in value else tuple(range(numbers[0]))
    if not seeds or min(seeds) < 0:
        raise BenchError(
            f"--seeds is '{value}'. Write a count of at least 1, or a list of numbers from 0 on."
        )
    return seeds


def parse_digits(_: Any, __: Any, value: str | None) -> tuple[int, ...]:
    """Digits separated by commas, sorted.

    Raises:
        BenchError: Some part is no digit.
    """
    names = parse_names(_, __, value)
    if any(name not in tuple("0123456789") for name in names):
        raise BenchError(f"--digits is '{value}'. Write digits separated by commas, such as 0,1.")
    return tuple(sorted({int(name) for name in names}))


def parse_duration(_: Any, __: Any, value: str | None) -> float | None:
    """Seconds of a time such as 90s, 30m or 2h; a bare number is in minutes.

    Raises:
        BenchError: The text is no such time.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if not match:
        raise BenchError(f"--time-limit is '{value}'. Write a time such as 90s, 30m or 2h.")
    return float(match[1]) * {"": 60, "s": 1, "m": 60, "h": 3600}[match[2]]


def data_options(command: Callable) -> Callable:
    """Add --data-root and --cache-dir."""
    cache = click.option(
        "--cache-dir",
        envvar="SHALA_CACHE",
        type=UserPath(),
        default=CACHE,
        help="Folder for generated data.  [$SHALA_CACHE, or ~/.cache/shala-bench]",
    )
    root = click.option(
        "--data-root",
        envvar="SHALA_DATA",
        type=UserPath(),
        default=DATA_ROOT,
        help="Folder of downloaded data.  [$SHALA_DATA, or ./shala-data]",
    )
    return root(cache(command))


def ray_options(command: Callable) -> Callable:
    """Add --engine, --address and --gpus-per-run."""
    engine = click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Run on this machine, or on a Ray cluster (extra: ray).",
    )
    address = click.option(
        "--address", default="auto", show_default=True, help="Address of the Ray cluster."
    )
    gpus = click.option(
        "--gpus-per-run",
        type=float,
        default=1.0,
        show_default=True,
        help="GPUs for each run on Ray. Fractions are allowed.",
    )
    return engine(address(gpus(command)))


def filter_options(command: Callable) -> Callable:
    """Add --dataset, --preset and --models, which choose among records."""
    dataset = click.option("--dataset", help="Only this dataset.")
    preset = click.option("--preset", help="Only this preset.")
    models = click.option(
        "--models", callback=parse_names, help="Only these methods, separated by commas."
    )
    return dataset(preset(models(command)))


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, such as model.latent_dim=32, models.shala.beta=1 or "
    "data.modalities=10; may be repeated.",
)
split_option = click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Split of the data. Use validation to choose settings.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Parallel processes."
)
threads_option = click.option("--threads", type=click.IntRange(1), help="Torch threads of a run.")
stores_option = click.option(
    "--store",
    "stores",
    multiple=True,
    type=UserPath(),
    help="Folder of records; may be repeated. Default: results/runs in the clone or, without a "
    "clone, in the current folder. If it has no runs: the packaged reference records.",
)


def read_stores(given: tuple[Path, ...], *committed: str) -> list[Store]:
    """The stores to read: those given, else the runs made here, else the committed records.

    Args:
        given: Values of --store.
        committed: Folders to read with the reference records, such as "ablations".

    Raises:
        BenchError: A given folder does not exist.
    """
    for path in given:
        if not path.is_dir():
            raise BenchError(
                f"--store is '{path}', but there is no such folder. Write a folder of records."
            )
    paths = list(given) or default_stores(*committed)
    if not given and paths != [default_store()]:
        names = " and ".join(f"results/{path.name}" for path in paths)
        click.echo(f"There are no runs here yet. Reading the records of {names}.", err=True)
    return [Store(path) for path in paths]
