"""Figures of latents: what a method's prior covers of its encodings (the paper's Figure 4).

They are made from a run's weights and its data, on the CPU, so that they are the same everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from shalabench.api import (
    BenchError,
    Classifier,
    Dataset,
    Latent,
    Model,
    Rng,
    Split,
    Trace,
    derive_seed,
    fixed_choice,
    has_ability,
)
from shalabench.api.commands import command_line
from shalabench.api.registry import find
from shalabench.records.frame import Records, check_names
from shalabench.records.frame import load as load_records
from shalabench.records.store import RunFolder, Store
from shalabench.report import clouds
from shalabench.report.clouds import Cloud
from shalabench.report.drawing import Drawing
from shalabench.report.paper import select, write_drawing
from shalabench.report.sections import sections_of

Load = Callable[[RunFolder], tuple[Model, Dataset, Mapping[str, Classifier]]]
"""Gives the trained model of a run, its data, and the classifiers of these (may be none)."""

_SHOWN = 500  # points a panel
_TIMES = (1, 0.6, 0.4, 0.2, 0)  # t / T; samplers of 5, 50 and 1,000 steps pass them all
_EXAMPLE = ("shala", "polydigits", "quick")


def write_latents(
    stores: Sequence[Store],
    out: Path,
    load: Load,
    *,
    store: Path | None = None,
    digits: tuple[int, ...] = (),
    split: str = "test",
    **filters: Any,
) -> tuple[list[Path], list[str]]:
    """Draw the latents of every method in the stores, of its first seed that has weights.

    Args:
        stores: Where runs lie.
        out: A folder; made if it does not exist.
        load: Loads a run (`shalabench.execute.trained`).
        store: The folder that --store named, for the commands in messages.
        digits: Only runs on these digits; any run where empty.
        split: What is encoded.
        filters: "dataset", "preset" and "models", as `select` takes them.

    Returns:
        The files, and sentences on what was left out.

    Raises:
        BenchError: Nothing can be drawn; the message has the command that makes a run.
    """
    if not any(each.has_runs() for each in stores):
        check_names(load_records([], split, may_be_empty=True), **filters)
        raise BenchError(_none(digits, store, **filters))
    records = select(stores, split=split, digits=digits, **filters)
    files, left_out = [], [f"{p.where}: {p.kind}: {p.text}" for p in records.problems]
    for section in sections_of(records):
        for label, own in section.rows:
            try:
                drawing = _draw(own, load, split, store)
            except BenchError as error:
                left_out.append(str(error))
                continue
            name = section.names[label].removesuffix(" …")  # the only variant of its section
            parts = ("latent", section.dataset, section.preset, section.variant, name)
            files += write_drawing(drawing, "-".join(filter(None, parts)), out)
    if not files:
        is_empty = records.runs.empty
        raise BenchError(_none(digits, store, **filters) if is_empty else "\n".join(left_out))
    return files, left_out


def _none(
    digits: tuple[int, ...],
    store: Path | None,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
) -> str:
    """The message that there is no run, with the command that makes one."""
    model, data, size = (models or _EXAMPLE)[0], dataset or _EXAMPLE[1], preset or _EXAMPLE[2]
    overrides = [f"data.digits={list(digits)}".replace(" ", "")] if digits else []
    command = _command(model, data, size, 0, overrides, store)
    what = f" on the digits {', '.join(map(str, digits))}" if digits else ""
    return f"There is no run{what} among those asked for. This makes one: {command}"


def _command(
    model: str, dataset: str, preset: str, seed: int, overrides: Sequence[str], store: Path | None
) -> str:
    options: dict[str, Any] = {"models": model, "dataset": dataset, "preset": preset}
    options |= {"seeds": f"{seed},{seed}" if seed else None, "set": list(overrides), "store": store}
    return command_line("python bench.py run", options)


def _draw(own: Records, load: Load, split: str, store: Path | None) -> Drawing:
    runs = list(own.rows)
    first = runs[0]
    if not has_ability(find("model", first.model).cls, Latent):
        raise BenchError(f"{first.model} has no shared latent with a prior that could be drawn.")
    run = next((r for r in runs if own.folders[r.train_id].weights.exists()), None)
    if run is None:
        why = "as exported runs are" if first.provenance else f"its state is '{first.state}'"
        names = (first.model, first.dataset, first.preset, first.seed, first.overrides)
        raise BenchError(
            f"{first.run} is recorded without weights, {why}, and latents are drawn from "
            f"weights. This trains it: {_command(*names, store)}"
        )
    model, dataset, classifiers = load(own.folders[run.train_id])
    with torch.inference_mode():
        return _Panels(model, dataset, split, run, classifiers).drawing()


@dataclass(frozen=True)
class _Panels:
    """A trained model's latents, and the tuples of a split that are encoded.

    Attributes:
        run: A row of `Records.runs`.
        classifiers: By modality; may be empty.
    """

    model: Model
    dataset: Dataset
    split: str
    run: Any
    classifiers: Mapping[str, Classifier]

    def drawing(self) -> Drawing:
        """From prior to posterior, with the states of the diffusion where the prior is one."""
        panels = self._trace() if isinstance(self.model, Trace) else self._prior()
        panels["posterior"] = self.posterior
        read = [self._read(z, title) for title, z in panels.items()]
        rows = [self._row(panels, read, *way) for way in self._projections(panels.values())]
        title = f"Latents of {self.run.model} on {self.run.dataset}"
        keys: dict[int | None, str] = {label: str(label) for label in self.known}
        if any(label is None for row in rows for cloud in row for label in cloud.classes):
            keys[None] = "classifiers differ" if self.classifiers else "not classified"
        return clouds.clouds(rows, title, f"{title}. {self._description(rows)}", keys)

    def _trace(self) -> dict[str, Tensor]:
        """A Gaussian and the states of the diffusion `[n, D]`, by what they are called."""
        gaussian = self._rng("gaussian").normal(*self.posterior.shape)
        trace = self.model.trace(self.n, _TIMES, self._rng("prior"))
        steps = {{0: "t = 0", 1: "t = T"}.get(t, f"t = {t:.2g} T"): z for t, z in trace.items()}
        return {"Gaussian": gaussian, **steps}

    def _prior(self) -> dict[str, Tensor]:
        return {"prior": self.model.prior(self.n, self._rng("prior"))}

    def _projections(self, latents: Iterable[Tensor]) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Each way of seeing latents `[n, D]` as `[n, 2]`, with its name where D is not 2."""
        arrays = [z.double().numpy() for z in latents]
        size = arrays[-1].shape[1]
        if size < 2:
            raise BenchError(f"The latent of {self.run.run} has one dimension: no picture.")
        if size == 2:
            yield "", arrays
            return
        axes = PCA(2, random_state=0).fit(arrays[-1])  # the posterior's
        share = f"PCA, {100 * axes.explained_variance_ratio_.sum():.0f} % of variance"
        yield share, [axes.transform(x) for x in arrays]
        how, embedded = _embed(np.concatenate(arrays))
        yield how, np.split(embedded, len(arrays))

    def _row(
        self,
        titles: Iterable[str],
        read: Sequence[Sequence[int | None]],
        how: str,
        points: Sequence[np.ndarray],
    ) -> list[Cloud]:
        """A row of panels; the posterior is coloured by the classes of its tuples."""
        row = []
        for title, seen, where in zip(titles, read, points, strict=True):
            agreeing = 100 * sum(label is not None for label in seen) / self.n
            note = f"{agreeing:.0f} % agree" if self.classifiers else ""
            pairs, last = list(map(tuple, where.tolist())), title == "posterior"
            row.append(Cloud(title, note, pairs, self.labels if last else seen, last))
        row[0] = replace(row[0], beside=how)
        return row

    def _read(self, z: Tensor, title: str) -> list[int | None]:
        """The class of the decoded latents `[n, D]` if all classifiers agree, else None."""
        if not self.classifiers:
            return [None] * len(z)
        views = self.model.decode(z, self._rng("decode", title))
        names = self.dataset.spec.names
        guesses = torch.stack([self.classifiers[m].network(views[m]).argmax(-1) for m in names])
        agreed = (guesses == guesses[0]).all(0).tolist()
        seen = zip(guesses[0].tolist(), agreed, strict=True)
        return [label if same and label in self.known else None for label, same in seen]

    def _description(self, rows: Sequence[Sequence[Cloud]]) -> str:
        """The alternative text of the figure."""
        text = "Scatter plots, the axes of a row alike. The posterior is coloured by class"
        if self.classifiers:
            text += ", other latents by the class of their decoded views, if all classifiers agree"
        panels = [f"{c.title}{f': {c.note}' if c.note else ''}" for c in rows[0]]
        text += f". {self.n} points a panel: {'; '.join(panels)}."
        if ways := [row[0].beside for row in rows if row[0].beside]:
            text += f" Projected by {' and '.join(ways)}."
        return text

    def _rng(self, *names: object) -> Rng:
        return Rng(derive_seed(self.run.seed, "latent figure", *names))

    @cached_property
    def _tuples(self) -> Split:
        return self.dataset.split(self.split)

    @cached_property
    def _items(self) -> Tensor:
        return fixed_choice(len(self._tuples), _SHOWN, "latent figure")

    @property
    def n(self) -> int:
        """How many points a panel has."""
        return len(self._items)

    @cached_property
    def posterior(self) -> Tensor:
        """An encoding `[n, D]` of each tuple."""
        views = self._tuples.batch(self._items).views
        return self.model.encode(views, self._rng("posterior"))

    @cached_property
    def labels(self) -> list[int | None]:
        """The class of each tuple."""
        labels = self._tuples.labels
        return [None] * self.n if labels is None else labels[self._items].tolist()

    @cached_property
    def known(self) -> list[int]:
        """The classes that there are."""
        return sorted({label for label in self.labels if label is not None})


def _embed(x: np.ndarray) -> tuple[str, np.ndarray]:
    """Latents `[N, D]` flattened so that neighbours stay near, and by what.

    UMAP (McInnes et al. 2018) where it is installed, else t-SNE (van der Maaten and Hinton 2008).
    """
    try:
        from umap import UMAP
    except ImportError:
        near = min(30.0, (len(x) - 1) / 3)
        return "t-SNE", TSNE(perplexity=near, random_state=0, n_jobs=1).fit_transform(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a fixed seed takes one thread
        return "UMAP", UMAP(n_components=2, random_state=0, n_jobs=1).fit_transform(x)
