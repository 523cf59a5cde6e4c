"""The commands for other code: score its samples, and write samples and weights of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from shalabench.api.files import expand_home
from shalabench.cli import complete
from shalabench.cli.options import (
    Command,
    UserPath,
    archive_option,
    data_options,
    dataset_option,
    device_option,
    evaluators_option,
    json_option,
    set_option,
    split_option,
)
from shalabench.cli.run import print_table
from shalabench.records.locations import default_store


@click.command(cls=Command)
@click.argument("source")
@dataset_option
@click.option("--name", required=True, help="Name of the method in tables.")
@click.option(
    "--preset",
    shell_complete=complete.presets,
    default="quick",
    show_default=True,
    help="Preset whose evaluator settings are used, or external for the default ones.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the training. Different seeds of one method share a row.",
)
@click.option(
    "--number",
    type=click.IntRange(1),
    help="For an object: number of joint samples, and of given test tuples. Default: the size of "
    "the split.",
)
@click.option(
    "--range",
    "low_high",
    type=float,
    nargs=2,
    metavar="BLACK WHITE",
    help="Values of black and white in floating-point images. Default: 0 1.",
)
@evaluators_option
@set_option
@data_options
@click.option(
    "--store",
    type=UserPath(file_okay=False),
    default=default_store,
    help="Folder for the records. Default: results/runs.",
)
@device_option
@split_option
@archive_option
@json_option
@click.pass_context
def evaluate(ctx: click.Context, source: str, low_high: Any, as_json: bool, **options: Any) -> None:
    """Score samples that other code has made.

    SOURCE is a folder of samples, an archive (.npz, .pt, .safetensors), or
    package.module:function, which returns an object with sample(n) or translate(given, targets).
    """
    from shalabench.api import DataPaths
    from shalabench.exchange.objects import load_object
    from shalabench.exchange.score import Request, score
    from shalabench.execute.progress import Reporter

    paths = DataPaths(options.pop("data_root"), options.pop("cache_dir"))
    number = options.pop("number") or 0
    request = Request(paths=paths, number=number, range=low_high or None, **options)
    is_object = ":" in source and not expand_home(source).exists()
    with Reporter() as reporter:
        scored = score(
            load_object(source) if is_object else expand_home(source),
            request,
            lambda name, done, total: reporter.show(
                request.name,
                {"kind": "evaluating", "evaluator": name, "done": done, "total": total},
            ),
        )
    facts = {
        "folder": str(scored.folder.path),
        "samples": scored.samples,
        "evaluated": scored.evaluated,
        "skipped": scored.skipped,
        "failed": scored.failed,
        "warnings": scored.warnings,
    }
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        ctx.exit(1 if scored.failed else 0)
    click.echo(f"{scored.samples}: {', '.join(scored.evaluated)} in {scored.folder.path}")
    for text in scored.warnings:
        click.echo(text, err=True)
    for name, reason in scored.skipped.items():
        click.echo(f"No {name}: {reason}", err=True)
    for name, reason in scored.failed.items():
        click.echo(f"{name} failed: {reason}", err=True)
    filters = {key: options[key] for key in ("dataset", "preset", "split")}
    print_table(request.store, False, (scored.folder.run["model"],), **filters)
    ctx.exit(1 if scored.failed else 0)


@click.command(cls=Command)
@click.argument("run")
@click.argument("out", type=UserPath())
@click.option(
    "--number",
    type=click.IntRange(1),
    help="Number of joint samples, and of given test tuples. Default: the size of the test split.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["npz", "safetensors", "png"]),
    default="npz",
    show_default=True,
    help="Exact values in an archive, or a folder of 8-bit pictures.",
)
@click.option(
    "--evaluator",
    default="coherence",
    show_default=True,
    help="Evaluator whose random numbers are used, so that `evaluate` gives the same values.",
)
@data_options
@device_option
def samples(run: str, out: Path, data_root: Path, cache_dir: Path, **options: Any) -> None:
    """Write the joint samples and translations of a trained RUN to OUT.

    RUN is the folder of a run or its name in results/runs. `evaluate` reads OUT.
    """
    from shalabench.api import DataPaths
    from shalabench.exchange.write import write
    from shalabench.records.locations import find_run

    number = options.pop("number") or 0
    paths = DataPaths(data_root, cache_dir)
    where, words = write(find_run(run), out, paths, number=number, **options)
    click.echo(f"{words} in {where}")


@click.command(cls=Command)
@click.argument("run")
@click.argument("out", type=UserPath(file_okay=False))
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float32 keeps every bit. float16 halves the file and changes samples slightly; the model "
    "card says by how much.",
)
@click.option(
    "--license",
    default="",
    metavar="NAME",
    help="Licence of the weights in the model card, as the hub names it (apache-2.0). Default: "
    "none is stated.",
)
@data_options
@json_option
def weights(
    run: str, out: Path, data_root: Path, cache_dir: Path, as_json: bool, **options: Any
) -> None:
    """Write the weights of a trained RUN to the folder OUT, with a config and a model card.

    RUN is the folder of a run or its name in results/runs. `shalabench.load_pretrained` reads OUT
    without the data or the run.
    """
    from shalabench.api import BenchError, DataPaths
    from shalabench.exchange.pretrained import describe, save
    from shalabench.execute.trained import load_trained
    from shalabench.records.locations import find_run

    if out.exists() and any(out.iterdir()):
        raise BenchError(f"{out} exists. Name another OUT, or move it away.")
    folder = find_run(run)
    model, _ = load_trained(folder, DataPaths(data_root, cache_dir))
    written = save(model, describe(folder), out, **options)["weights"]
    if as_json:
        click.echo(json.dumps({"folder": str(out), **written}, indent=1))
        return
    click.echo(f"{written['bytes']:,} bytes in {written['precision']} in {out}")
    if written["rounding"]:
        apart = written["rounding"]["mean_difference"].items()
        texts = ", ".join(f"{value:.2g} ({name})" for name, value in apart)
        click.echo(f"Rounding changes joint samples by, in the mean: {texts}.")
