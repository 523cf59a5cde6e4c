"""CPU time and memory of training updates and evaluations, against those of a commit.

    python benchmarks/step.py --against REV [--methods shala,mmvae+] [--precision float32]

The preset's batch size, PolyMNIST, the preset `cpu` and the nine methods of the paper unless others
are named; against.py says how it measures. Other scripts use `build` and `make_update`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from against import METHODS, Comparison, compare, render

from shalabench.api import DataSpec, Model, Rng, Settings, Split, Stage, arithmetic
from shalabench.api.registry import find
from shalabench.execute.inputs import order_channels_last


def build(method: str, spec: DataSpec, config: Settings) -> Model:
    """The method with the weights of seed 0, in training mode."""
    torch.manual_seed(0)
    model = find("model", method).cls(spec, config)
    order_channels_last(model)
    return model.train()


def make_update(
    stage: Stage, split: Split, precision: str
) -> Callable[[], dict[str, torch.Tensor]]:
    """One update of a stage on all of a split, as training does it; gives its loss terms."""
    index = torch.arange(len(split))

    def update() -> dict[str, torch.Tensor]:
        with arithmetic(precision, split.device):
            return stage.update(split.batch(index), Rng(0))

    return update


@click.command(help=__doc__)
@click.option("--against", metavar="REV", required=True, help="The commit to compare with.")
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--dataset", default="polymnist", show_default=True)
@click.option("--preset", default="cpu", show_default=True)
@click.option("--batch", default=0, help="Tuples an update; the preset's if 0.")
@click.option("--stage", default="", help="Only the stage of this name.")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True
)
@click.option("--set", "overrides", multiple=True, help="As bench.py's.")
@click.option("--turns", default=8, show_default=True, help="Of each side.")
@click.option("--updates", default=3, show_default=True, help="In a turn.")
@click.option("--evaluate", default="", help="Evaluators to time too.")
@click.option("--tuples", default=0, help="With --evaluate: test tuples; all if 0.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--data-root", envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(
    against: str,
    methods: str,
    batch: int,
    precision: str,
    overrides: tuple[str, ...],
    evaluate: str,
    as_json: bool,
    data_root: Path,
    cache_dir: Path,
    **what: Any,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    comparison = Comparison(
        methods=tuple(methods.split(",")),
        overrides=(f"train.precision={precision}", *overrides),
        evaluators=tuple(evaluate.split(",")) if evaluate else (),
        batch=batch,
        paths={"data_root": str(data_root), "cache_dir": str(cache_dir)},
        **what,
    )
    made = compare(against, comparison)
    click.echo(json.dumps(made, indent=1) if as_json else render(made))


if __name__ == "__main__":
    main()
