"""How much of the data's spread a sampler keeps, exactly, as docs/priors.md shows it.

    python benchmarks/spread.py [--write]

For data N(0, s^2) the best denoiser is known, and it is linear. A deterministic sampler then
multiplies its start by a number, which is the standard deviation of the samples. A step of the
ancestral sampler multiplies the variance by a number and adds another. Nothing is drawn at random.
A trained denoiser errs as well; this is the part that the sampler adds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import cast

import click
import torch
from tabulate import tabulate
from torch import Tensor

from shalabench.api import Rng, Sampler, Spacing
from shalabench.nets.diffusion import Denoiser, Prediction, Schedule, make_schedule
from shalabench.nets.solvers import sample

PAGE = Path(__file__).parent.parent / "docs" / "priors.md"
STDS = (0.1, 0.2, 0.5, 1.0)
KINDS = ("cosine", "linear")
ROWS: tuple[tuple[Sampler, Spacing, tuple[int, ...]], ...] = (
    ("ddim", "uniform", (10, 20, 50)),
    ("ddim", "log-snr", (10, 20, 50)),
    ("dpm++", "uniform", (10, 20, 50)),
    ("dpm++", "log-snr", (10, 20, 50)),
    ("ancestral", "uniform", (50, 250, 1000)),
)


class Step:
    """In place of an Rng and of a revision: the variance of the samples, one step after another.

    Before each step item 0 is set to 1 without noise, and item 1 to 0 with a noise of 1.
    """

    def __init__(self) -> None:
        self.variance: float | None = None  # of z before the step; None before the first

    def normal(self, *shape: int) -> Tensor:
        return torch.tensor([0.0, 1.0], dtype=torch.float64)

    def revise(self, z: Tensor, t: int) -> Tensor:
        kept, added = z.square().tolist()
        self.variance = 1.0 if self.variance is None else kept * self.variance + added
        return 1 - self.normal()


def exact_denoiser(schedule: Schedule, std: float) -> Denoiser:
    """The best denoiser of data N(0, std^2)."""

    def denoise(z: Tensor, t: Tensor) -> Tensor:
        signal, sigma = schedule.signal[t].double(), schedule.sigma[t].double()
        variance = (signal * std) ** 2 + sigma**2
        data, noise = signal * std**2 / variance * z, sigma / variance * z
        return {"data": data, "noise": noise, "velocity": signal * noise - sigma * data}[
            schedule.prediction
        ]

    return denoise


def measure(
    sampler: Sampler,
    spacing: Spacing,
    steps: int,
    std: float,
    kind: str,
    prediction: Prediction = "velocity",
) -> float:
    """The standard deviation of samples as a part of the data's, for T = 1000."""
    schedule = make_schedule(kind, 1000, prediction)
    denoiser, step = exact_denoiser(schedule, std), Step()
    revise = step.revise if sampler == "ancestral" else None
    start, rng = 1 - step.normal(), cast(Rng, step)
    z = sample(sampler, denoiser, schedule, start, rng, steps=steps, revise=revise, spacing=spacing)
    return (abs(z[0].item()) if step.variance is None else step.variance**0.5) / std


def table() -> str:
    """All rows, in Markdown."""
    columns = [(kind, std) for kind in KINDS for std in STDS]
    head = ["sampler", "spacing", "steps", *(f"{kind} {_short(std)}" for kind, std in columns)]
    rows = [
        [
            f"`{sampler}`",
            f"`{spacing}`",
            f"{steps:,}",
            *(_short(round(measure(sampler, spacing, steps, std, k), 2)) for k, std in columns),
        ]
        for sampler, spacing, counts in ROWS
        for steps in counts
    ]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def render_page(text: str) -> str:
    """The page with the table as it is now."""
    return re.sub(
        r"(<!-- spread -->\n).*?(\n<!-- end -->)",
        lambda m: f"{m[1]}{table()}{m[2]}",
        text,
        flags=re.S,
    )


@click.command()
@click.option("--write", is_flag=True, help="Put the table into docs/priors.md.")
def main(write: bool) -> None:
    """Print the table."""
    print(table())
    if write:
        PAGE.write_text(render_page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
