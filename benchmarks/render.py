"""Images a second of CPU time that the car renderer draws at each resolution, on one thread.

    python benchmarks/render.py [--resolutions 32,64,128] [--cars 8]

It draws sixteen views of each body kind in turn, with alpha, parts and depth. `restyled` is the
cost of a further style of the same shape, relative to the first style.
"""

from __future__ import annotations

import time

import click
import numpy as np
import timing  # noqa: F401  puts the project on the import path
import torch
from tabulate import tabulate

from shalabench.datasets.sources.rig import ring
from shalabench.datasets.synthetic.cars.drawing import stage
from shalabench.datasets.synthetic.cars.shapes import KINDS, draw_shape
from shalabench.datasets.synthetic.cars.styles import draw_style


def measure(side: int, cars: int) -> tuple[int, float, float, float]:
    """(side, seconds a car, images a second, cost of a further style)."""
    cameras, first, further = ring(), 0.0, 0.0
    for i in range(cars):
        shape = draw_shape(KINDS[i % len(KINDS)], np.random.default_rng([0, i]))
        styles = [draw_style(np.random.default_rng([1, i, j])) for j in range(2)]
        began = time.process_time()
        scene = stage(shape, cameras, side)
        scene.draw(styles[0])
        drawn = time.process_time()
        scene.draw(styles[1])
        further += time.process_time() - drawn
        first += drawn - began
    return side, first / cars, cars * len(cameras) / first, further / first


@click.command(help=__doc__)
@click.option("--resolutions", default="32,64,128", show_default=True)
@click.option("--cars", default=8, show_default=True)
def main(resolutions: str, cars: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    measure(16, 1)
    rows = [measure(int(side), cars) for side in resolutions.split(",")]
    head = ("pixels", "CPU s a car", "images/s", "restyled")
    click.echo(tabulate(rows, head, floatfmt=("", ".3f", ".0f", ".2f")))


if __name__ == "__main__":
    main()
