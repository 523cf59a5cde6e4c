"""What the commands share: options, their parsers, exit codes and the display of errors."""

from __future__ import annotations

import errno
import io
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shalabench.api.errors import BenchError, out_of_memory, unknown
from shalabench.api.files import expand_home
from shalabench.api.stopping import STOPPED_EXIT, exit_when_terminated
from shalabench.cli import complete
from shalabench.records.locations import (
    DATA_ROOT,
    default_cache,
    default_store,
    default_stores,
    packaged_stores,
)
from shalabench.records.store import Store

PRIORS = ("own", "gmm", "diffusion")
EXITS = (
    "Exit codes: 0 success, 1 a run, an evaluator or a check failed, 2 wrong input, 3 stopped "
    "before the end."
)


_MOST_SEEDS, _LAST_SEED = 10_000, 2**32 - 1
_TOO_MANY = (
    "--seeds is '{}'. Write a count of at most "
    f"{_MOST_SEEDS:,}, or a list of numbers up to {_LAST_SEED:,}, each followed by a comma."
)


class Command(click.Command):
    """A command whose help states the exit codes."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"epilog": EXITS, **options})


class Group(click.Group):
    """A group of commands that prints a BenchError without a traceback."""

    command_class = Command

    def main(self, *args: Any, **options: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # of another encoding than UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with exit_when_terminated():  # until a command handles it itself
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BenchError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(STOPPED_EXIT)
        except Exception as error:
            if (text := _explain(error)) is None:
                raise
            click.echo(text, err=True)
            ctx.exit(2)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise BenchError(unknown("command", args[0], self.commands))
        return super().resolve_command(ctx, args)


def _explain(error: Exception) -> str | None:
    """A sentence on an error that a number or a name causes wherever it is used, or None."""
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"'{str(error.filename)[:60]}...' is too long for a file name. Write a shorter name."
    if out_of_memory(error):
        reason = str(error).partition("\n")[0]
        return (
            f"There is not enough memory ({reason}). Choose a smaller preset, or lower the numbers "
            "that are given with --set or --seeds."
        )
    return None


def parse_finite(_: Any, option: Any, value: float | None) -> float | None:
    """A number that is neither NaN nor infinite nor negative.

    Raises:
        BenchError: It is.
    """
    if value is not None and not 0 <= value < math.inf:
        raise BenchError(f"{option.opts[0]} is {value}. Write a number from 0 on, such as 1.")
    return value


class UserPath(click.Path):
    """A path in which ~ is the home folder, even if no shell has expanded it."""

    def __init__(self, **options: Any):
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if "\0" in str(value):
            self.fail(f"{value!r} is no path: it contains a null character.", param, ctx)
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
    if value.strip().isdecimal() and len(value) > len(str(_MOST_SEEDS)) + 1:
        raise BenchError(_TOO_MANY.format(value[:40]))
    try:
        numbers = tuple(int(part) for part in value.removesuffix(",").split(","))
    except ValueError as error:
        raise BenchError(
            f"--seeds is '{value}'. Write a count such as 3, or a list such as 0,4."
        ) from error
    if ("," not in value and numbers[0] > _MOST_SEEDS) or max(numbers) > _LAST_SEED:
        raise BenchError(_TOO_MANY.format(value[:40]))
    seeds = tuple(dict.fromkeys(numbers)) if "," in value else tuple(range(numbers[0]))
    if not seeds or min(seeds) < 0:
        raise BenchError(
            f"--seeds is '{value}'. Write a count of at least 1, or a list of numbers from 0 on."
        )
    return seeds


def parse_tuples(_: Any, __: Any, value: str | None) -> tuple[int, ...]:
    """Numbers of tuples separated by commas, such as 500, 30k or 0.1M.

    Raises:
        BenchError: Some part is no such number.
    """
    numbers = []
    for name in parse_names(_, __, value):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM]?)", name)
        number = float(match[1]) * {"": 1, "k": 1e3, "M": 1e6}[match[2]] if match else 0
        if number < 1:
            raise BenchError(
                f"--tuples is '{value}', and '{name}' is no number of tuples. Write numbers "
                "separated by commas, such as 30k,0.1M,1M."
            )
        numbers.append(round(number))
    return tuple(sorted(set(numbers)))


def parse_priors(_: Any, __: Any, value: str | None) -> tuple[str, ...]:
    """Kinds of priors separated by commas.

    Raises:
        BenchError: Some kind is unknown.
    """
    kinds = parse_names(_, __, value)
    for kind in kinds:
        if kind not in PRIORS:
            raise BenchError(unknown("prior", kind, PRIORS))
    return tuple(kind for kind in PRIORS if kind in kinds)  # a fitted one reuses what own trains


def parse_digits(_: Any, __: Any, value: str | None) -> tuple[int, ...]:
    """Digits separated by commas, sorted.

    Raises:
        BenchError: Some part is no digit.
    """
    names = parse_names(_, __, value)
    if any(name not in tuple("0123456789") for name in names):
        raise BenchError(f"--digits is '{value}'. Write digits separated by commas, such as 0,1.")
    return tuple(sorted({int(name) for name in names}))


def parse_duration(_: Any, option: Any, value: str | None) -> float | None:
    """Seconds of a time such as 90s, 30m or 2h; a bare number is in minutes.

    Raises:
        BenchError: The text is no such time.
    """
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if not match:
        raise BenchError(f"{option.opts[0]} is '{value}'. Write a time such as 90s, 30m or 2h.")
    return float(match[1]) * {"": 60, "s": 1, "m": 60, "h": 3600}[match[2]]


def data_options(command: Callable) -> Callable:
    """Add --data-root and --cache-dir."""
    cache = click.option(
        "--cache-dir",
        envvar="SHALA_CACHE",
        type=UserPath(),
        default=default_cache,
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


def filter_options(command: Callable) -> Callable:
    """Add --dataset, --preset and --models, which choose among records."""
    dataset = click.option("--dataset", shell_complete=complete.datasets, help="Only this dataset.")
    preset = click.option("--preset", shell_complete=complete.presets, help="Only this preset.")
    models = click.option(
        "--models",
        shell_complete=complete.models,
        callback=parse_names,
        help="Only these methods, separated by commas.",
    )
    return dataset(preset(models(command)))


models_option = click.option(
    "--models",
    shell_complete=complete.models,
    callback=parse_names,
    help="Methods separated by commas, or all.",
)
dataset_option = click.option(
    "--dataset",
    shell_complete=complete.datasets,
    required=True,
    help="Name of a dataset (see: list datasets).",
)
preset_option = click.option(
    "--preset",
    shell_complete=complete.presets,
    default="quick",
    show_default=True,
    help="Name of a preset (see: list presets).",
)
evaluators_option = click.option(
    "--evaluators",
    shell_complete=complete.evaluators,
    callback=parse_names,
    help="Evaluators separated by commas. Default: all that apply.",
)
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
    help="Split on which scores are measured. Use validation to choose settings.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Number of parallel runs."
)
threads_option = click.option("--threads", type=click.IntRange(1), help="CPU threads of each run.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="auto, cpu or cuda[:n]."
)
time_limit_option = click.option(
    "--time-limit", callback=parse_duration, help="Stop with a checkpoint after 90s, 30m or 2h."
)
checkpoint_option = click.option(
    "--checkpoint-every",
    type=float,
    callback=parse_finite,
    default=60.0,
    show_default=True,
    help="Seconds between checkpoints.",
)
archive_option = click.option(
    "--classifiers",
    "archive",
    type=UserPath(exists=True),
    help="Folder with classifiers to use instead of the packaged ones.",
)
no_locks_option = click.option(
    "--no-locks",
    is_flag=True,
    help="Use no file locks, for file systems without them. Then only one command at a time may "
    "use the store.",
)
stores_option = click.option(
    "--store",
    "stores",
    multiple=True,
    type=UserPath(),
    help="Folder of records; may be repeated. Default: results/runs in the clone or, without a "
    "clone, in the current folder. If it has no runs: the packaged reference records.",
)


reference_option = click.option(
    "--reference",
    is_flag=True,
    help="Show the packaged reference records too, in separate rows.",
)


def read_stores(given: tuple[Path, ...], *more: str, reference: bool | None = None) -> list[Store]:
    """The stores to read: those given, else the runs made here, else the committed records.

    Args:
        given: Values of --store.
        more: Committed folders to read with the reference records, such as "ablations".
        reference: Whether the committed records are read too, apart; None where a command has no
            --reference.

    Raises:
        BenchError: A given folder does not exist.
    """
    for path in given:
        if not path.is_dir():
            raise BenchError(
                f"--store is '{path}', but there is no such folder. Write a folder of records."
            )
    paths = list(given) or default_stores(*more)
    if not given and paths != [default_store()]:
        names = " and ".join(f"results/{path.name}" for path in paths)
        click.echo(f"There are no runs here yet. Reading the records of {names}.", err=True)
    elif not given and reference is False:
        click.echo(f"Reading the runs in {paths[0]}; --reference adds packaged ones.", err=True)
    stores = [Store(path) for path in paths]
    if not reference:
        return stores
    known = {path.resolve() for path in paths}
    packaged = [path for path in packaged_stores(*more) if path.resolve() not in known]
    return [*(Store(path, is_reference=True) for path in packaged), *stores]
