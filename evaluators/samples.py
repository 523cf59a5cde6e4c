"""Pictures of what a model generates, and how well it reconstructs."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Joint,
    Metric,
    Modality,
    Model,
    Outcome,
    Reconstruct,
    Rng,
    Score,
    Settings,
    Split,
    Translate,
    Views,
    has_ability,
    register_evaluator,
    setting,
)
from shalabench.metrics import grids
from shalabench.metrics.images import LARGEST_PSNR
from shalabench.metrics.scores import Clusters, mean_score

_SMALL = 32  # pixels; images up to here are shown at least twice enlarged
_LEAST = 56  # pixels of the smallest tile: PolyMNIST's 28 twice
_PAGE = 128  # pixels of the smallest tile for texts of words: some 200 letters
_TILES = 200  # at most in the grid of translations
_LETTER = (6, 11)  # width and height of a letter in pixels
_FONT_SIZE = 10
_LARGEST_FONT = 20
_BLANK = (190, 190, 190)  # colour of the dots that show blanks


class SamplesConfig(Settings):
    """How much is shown."""

    columns: int = setting(10, "Joint samples and reconstructions shown.", "our choice", ge=1)
    sources: int = setting(
        5,
        "Test tuples shown for each given modality; fewer where that makes over 200 tiles.",
        "our choice",
        ge=1,
    )
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "our choice", ge=1)


@register_evaluator("samples", version=2)
class Samples(Evaluator):
    """Grids of joint samples, translations and reconstructions, and the reconstruction error."""

    Config = SamplesConfig
    metrics = (
        Metric(
            "reconstruction/mae", "lower", 4, "mean absolute error of decoded posterior samples"
        ),
        Metric(
            "reconstruction/psnr",
            "higher",
            2,
            "PSNR in dB of decoded posterior samples, mean over images",
        ),
        Metric.share(
            "reconstruction/token-accuracy",
            "share of the text tokens that are right in decoded posterior samples",
        ),
        Metric(
            "reconstruction/unexplained",
            "lower",
            4,
            "squared error of decoded posterior samples of vectors, in parts of the variance of "
            "the real ones; 1 is the error of their mean",
        ),
    )

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        if not any(has_ability(model, ability) for ability in (Joint, Translate, Reconstruct)):
            return "The model neither samples jointly, nor translates, nor reconstructs."
        return None

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        scores, pictures, texts = [], {}, {}
        columns = self.config.columns
        if isinstance(model, Joint):
            sampled = model.sample(columns, context.rng("joint"))
            pictures["joint"] = _grid([sampled], spec)
            texts["joint"] = _transcript({"sampled": sampled}, spec)
        if isinstance(model, Translate):
            pictures["cross"], texts["cross"] = self._cross(model, spec, split, context)
        if isinstance(model, Reconstruct):
            real = _first(split, columns)
            made = model.reconstruct(real, context.rng("reconstruction"))
            pictures["reconstruction"] = _grid([real, made], spec)
            scores = self._errors(model, spec, split, context)
        pictures = {stem: grid.permute(1, 2, 0).contiguous() for stem, grid in pictures.items()}
        return Outcome(scores, {}, pictures, {stem: text for stem, text in texts.items() if text})

    def _cross(
        self, model: Translate, spec: DataSpec, split: Split, context: EvalContext
    ) -> tuple[Tensor, str]:
        """A block for each source, the given views framed above the targets; and all texts."""
        views = _first(split, max(1, min(self.config.sources, _TILES // len(spec.names) ** 2)))
        tile, blocks, groups = _tile_size(spec), [], {"real": views}
        for source in spec.names:
            targets = [name for name in spec.names if name != source]
            made = model.translate({source: views[source]}, targets, context.rng("cross", source))
            given = _tiles(spec[source], views[source], tile)
            rows = [grids.frame(given, range(len(given)))]
            rows += [grids.frame(_tiles(spec[name], made[name], tile)) for name in targets]
            blocks.append(grids.draw_rows(rows))
            groups[f"from {source}"] = made
        return grids.join(blocks, 3 * grids.GAP, across=True), _transcript(groups, spec)

    def _errors(
        self, model: Reconstruct, spec: DataSpec, split: Split, context: EvalContext
    ) -> list[Score]:
        spread = {
            m.name: split.tensors[m.name].flatten(1).double().var(0, correction=0).sum()
            for m in spec.modalities
            if m.kind == "vector"
        }

        def measure(index: Tensor, rng: Rng) -> dict[tuple[str, str], Tensor]:
            views = split.batch(index).views
            made = model.reconstruct(views, rng)
            return {
                (metric, name): values
                for name, real in views.items()
                for metric, values in _compare(spec[name], made[name], real, spread).items()
            }

        context.expect(len(split))
        measured = context.map(measure, len(split), self.config.batch_size, "reconstruction")
        by_metric: dict[str, dict[str, Tensor]] = {}
        for (metric, name), values in measured.items():
            by_metric.setdefault(metric, {})[name] = _independent(values.double(), split)
        sources = None if split.rows else split.sources(spec.names)
        clusters = None if sources is None else Clusters(sources, split.labels)
        scores = []
        for metric, parts in by_metric.items():
            mean = torch.stack(list(parts.values())).mean(0)
            scores.append(mean_score(metric, mean, clusters=clusters))
            scores += [mean_score(metric, x, (), name, clusters) for name, x in parts.items()]
        return scores


def _first(split: Split, n: int) -> Views:
    """The first tuples; where tuples share images, one tuple an image from the whole split."""
    if not split.rows:
        return split.batch(torch.arange(min(n, len(split)), device=split.device)).views
    fresh = split.distinct()  # CUB lists its photos by species: the first are all of one
    spread = torch.linspace(0, len(fresh) - 1, min(n, len(fresh)), device=fresh.device)
    return split.batch(fresh[spread.long()]).views


def _independent(items: Tensor, split: Split) -> Tensor:
    """Values `[N]` of tuples, averaged over the tuples that share an image: `[R]`.

    Where several modalities share images, the one with the fewest distinct images counts.
    """
    if not split.rows:
        return items
    shared = [rows.unique(return_inverse=True)[1] for rows in split.rows.values()]
    row = min(shared, key=lambda rows: int(rows.max()))
    sums = torch.zeros(int(row.max()) + 1, dtype=items.dtype, device=items.device)
    return sums.index_add(0, row, items) / row.bincount()


def _compare(
    modality: Modality, made: Tensor, real: Tensor, spread: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Errors `[B]` of a modality's reconstructions, by metric.

    Args:
        modality: The one that was reconstructed.
        made, real: `[B, ...]`.
        spread: The variance of each vector modality, summed over its numbers.
    """
    if modality.kind == "vector":
        error = (made.double() - real.double()).flatten(1).square().sum(1)
        return {"reconstruction/unexplained": error / spread[modality.name].clamp(min=1e-12)}
    if modality.kind == "text":
        return {"reconstruction/token-accuracy": (made == real).float().mean(1)}
    difference = (made.float().clamp(0, 1) - real).flatten(1)
    psnr = -10 * difference.square().mean(1).log10()
    return {
        "reconstruction/mae": difference.abs().mean(1),
        "reconstruction/psnr": psnr.clamp(max=LARGEST_PSNR),
    }


def _grid(groups: list[Views], spec: DataSpec) -> Tensor:
    """A column a tuple, a row a modality, the groups' rows of a modality together."""
    tile = _tile_size(spec)
    rows = [_tiles(m, views[m.name], tile) for m in spec.modalities for views in groups]
    return grids.draw_rows([grids.frame(row) for row in rows])


def _tile_size(spec: DataSpec) -> int:
    """Side in pixels of the square that every view is shown in."""
    largest = max((max(m.shape[1:]) for m in spec.modalities if m.kind == "image"), default=0)
    tile = max(_LEAST, 2 * largest if largest <= _SMALL else largest)
    return max(tile, _PAGE) if any(_has_words(m) for m in spec.modalities) else tile


def _has_words(modality: Modality) -> bool:
    return any(len(token) > 1 for token in modality.vocabulary)


def _transcript(groups: dict[str, Views], spec: DataSpec) -> str:
    """The texts of some tuples, a paragraph a tuple, a line a text; empty if there is none."""
    lines = {
        (i, name, group): modality.text(x.tolist())
        for name, modality in ((m.name, m) for m in spec.modalities if m.kind == "text")
        for group, views in groups.items()
        if name in views
        for i, x in enumerate(views[name])
    }
    paragraphs: dict[int, str] = {}
    for (i, name, group), text in lines.items():
        paragraphs[i] = paragraphs.get(i, f"{i + 1}\n") + f"  {name}, {group}: {text}\n"
    return "\n".join(paragraphs.values())


def _tiles(modality: Modality, views: Tensor, side: int) -> Tensor:
    """Views as uint8 `[n, 3, side, side]`: images, written texts, vectors as bars."""
    if modality.kind == "vector":
        return grids.bars(views, side)
    if modality.kind == "image":
        return grids.fit(views, side)
    drawn = np.stack([_written(modality, x, side) for x in views.detach().cpu()])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2)


def _written(modality: Modality, x: Tensor, tile: int) -> np.ndarray:
    """A text as uint8 `[tile, tile, 3]`, wrapped and cut to fit.

    A single line of letters is spread over the tile, so that each letter's position is seen.
    """
    if not _has_words(modality) and len(x) * _LETTER[0] <= tile:
        return _spread([modality.vocabulary[token] for token in x.tolist()], tile)
    text = modality.text(x.tolist())
    width, height = _LETTER
    lines = textwrap.wrap(text, tile // width, drop_whitespace=_has_words(modality))
    lines = lines[: tile // height]
    canvas, font = Image.new("RGB", (tile, tile), "white"), ImageFont.load_default(_FONT_SIZE)
    for i, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((1, i * height), line, fill="black", font=font)
    return np.asarray(canvas)


def _spread(letters: list[str], tile: int) -> np.ndarray:
    """A line of letters in the middle of the tile, one a cell; blanks are dots."""
    cell = tile / len(letters)
    canvas = Image.new("RGB", (tile, tile), "white")
    font = ImageFont.load_default(min(_LARGEST_FONT, 1.6 * cell))
    for i, letter in enumerate(letters):
        blank = letter.isspace()
        ImageDraw.Draw(canvas).text(
            ((i + 0.5) * cell, tile / 2),
            "·" if blank else letter,
            fill=_BLANK if blank else "black",
            font=font,
            anchor="mm",
        )
    return np.asarray(canvas)
