"""Pictures of what a model generates, and how well it reconstructs."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

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
    Score,
    Settings,
    Split,
    Translate,
    Views,
    has_ability,
    register_evaluator,
    setting,
)
from shalabench.metrics.images import LARGEST_PSNR

_SMALL = 32  # pixels; a modality up to here is shown at least twice enlarged
_LEAST = 56  # pixels of the smallest tile: PolyMNIST's 28 twice
_PAGE = 128  # pixels of the smallest tile where texts have words: some 200 letters
_GAP = 2
_GIVEN = (20, 160, 60)  # frame of what was given
_WHITE = 255
_TILES = 200  # in the grid of translations, which must stay below 300 kB
_LETTER = (6, 11)  # width and height of a letter in pixels
_FONT_SIZE = 10
_LARGEST_FONT = 20
_BLANK = (190, 190, 190)  # colour of the dots that stand for blanks


class SamplesConfig(Settings):
    """How much is shown."""

    columns: int = setting(10, "Joint samples and reconstructions shown.", "ours", ge=1)
    sources: int = setting(
        5,
        "Test tuples shown for each given modality; fewer where that makes over 200 tiles.",
        "ours",
        ge=1,
    )
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "ours", ge=1)


@register_evaluator("samples", version=2)
class Samples(Evaluator):
    """Grids of joint samples, translations and reconstructions, and the reconstruction error."""

    Config = SamplesConfig
    metrics = (
        Metric(
            "reconstruction/mae",
            "lower",
            4,
            "mean absolute error of decoded posterior samples, clamped to [0, 1]",
        ),
        Metric(
            "reconstruction/psnr",
            "higher",
            2,
            "peak signal-to-noise ratio in dB of decoded posterior samples, clamped to [0, 1]; by "
            "image, then the mean",
        ),
        Metric(
            "reconstruction/token-accuracy",
            "higher",
            3,
            "tokens of texts that decoded posterior samples get right",
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
        return Outcome(scores, {}, pictures, {stem: text for stem, text in texts.items() if text})

    def _cross(
        self, model: Translate, spec: DataSpec, split: Split, context: EvalContext
    ) -> tuple[Tensor, str]:
        """A block for each source: what was given framed on top, the targets below; the texts."""
        views = _first(split, max(1, min(self.config.sources, _TILES // len(spec.names) ** 2)))
        tile, blocks, told = _tile_size(spec), [], {"real": views}
        for source in spec.names:
            targets = [name for name in spec.names if name != source]
            made = model.translate({source: views[source]}, targets, context.rng("cross", source))
            rows = [_row(spec[source], views[source], tile, _GIVEN)]
            rows += [_row(spec[name], made[name], tile) for name in targets]
            blocks.append(np.concatenate(rows, axis=0))
            told[f"from {source}"] = made
        return torch.from_numpy(_beside(blocks)), _transcript(told, spec)

    def _errors(
        self, model: Reconstruct, spec: DataSpec, split: Split, context: EvalContext
    ) -> list[Score]:
        found: dict[str, dict[str, list[Tensor]]] = {}  # by metric, then modality
        done = 0
        for batch in split.batches(self.config.batch_size):
            made = model.reconstruct(batch.views, context.rng("reconstruction", first=done))
            for name, real in batch.views.items():
                for metric, errors in _errors(spec[name], made[name], real).items():
                    found.setdefault(metric, {}).setdefault(name, []).append(errors)
            done += len(batch)
            context.report(done, len(split))
        scores = []
        for metric, by_modality in found.items():
            parts = {name: torch.cat(errors).double() for name, errors in by_modality.items()}
            parts = {name: _independent(errors, split) for name, errors in parts.items()}
            scores.append(_mean(metric, torch.stack(list(parts.values())).mean(0), None))
            scores += [_mean(metric, errors, name) for name, errors in parts.items()]
        return scores


def _first(split: Split, n: int) -> Views:
    """The first tuples; of images that many tuples show each once, from the whole split."""
    if not split.rows:
        return split.batch(torch.arange(min(n, len(split)), device=split.device)).views
    fresh = split.distinct()  # CUB lists its photos by species: the first are all of one
    spread = torch.linspace(0, len(fresh) - 1, min(n, len(fresh)), device=fresh.device)
    return split.batch(fresh[spread.long()]).views


def _independent(items: Tensor, split: Split) -> Tensor:
    """Figures `[N]` of tuples as one for each distinct image, the mean of its tuples' `[R]`.

    Where several modalities share rows, that with the fewest distinct ones counts.
    """
    if not split.rows:
        return items
    shared = [own.unique(return_inverse=True)[1] for own in split.rows.values()]
    row = min(shared, key=lambda own: int(own.max()))
    sums = torch.zeros(int(row.max()) + 1, dtype=items.dtype, device=items.device)
    return sums.index_add(0, row, items) / row.bincount()


def _errors(modality: Modality, made: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Figures `[B]` of a modality's reconstructions, by metric."""
    if modality.kind == "text":
        return {"reconstruction/token-accuracy": (made == real).float().mean(1)}
    difference = (made.float().clamp(0, 1) - real).flatten(1)
    psnr = -10 * difference.square().mean(1).log10()
    return {
        "reconstruction/mae": difference.abs().mean(1),
        "reconstruction/psnr": psnr.clamp(max=LARGEST_PSNR),
    }


def _mean(metric: str, items: Tensor, target: str | None) -> Score:
    n = len(items)
    stderr = (items.std() / n**0.5).item() if n > 1 else None
    return Score(metric, items.mean().item(), n, stderr, target=target)


def _grid(groups: list[Views], spec: DataSpec) -> Tensor:
    """A column a tuple, a row a modality, the groups' rows of a modality together."""
    tile = _tile_size(spec)
    rows = [_row(m, views[m.name], tile) for m in spec.modalities for views in groups]
    return torch.from_numpy(np.concatenate(rows, axis=0))


def _tile_size(spec: DataSpec) -> int:
    """Side in pixels of the square that every view is shown in."""
    largest = max((max(m.shape[1:]) for m in spec.modalities if m.kind == "image"), default=0)
    tile = max(_LEAST, 2 * largest if largest <= _SMALL else largest)
    return max(tile, _PAGE) if any(_has_words(m) for m in spec.modalities) else tile


def _has_words(modality: Modality) -> bool:
    return any(len(token) > 1 for token in modality.vocabulary)


def _transcript(groups: dict[str, Views], spec: DataSpec) -> str:
    """The texts of some tuples, a paragraph a tuple, a line a text; empty where there is none."""
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


def _row(
    modality: Modality, views: Tensor, tile: int, frame: tuple[int, int, int] | None = None
) -> np.ndarray:
    draw = _shown if modality.kind == "image" else _written
    outer = tile + 2 * _GAP
    row = np.full((outer, len(views), outer, 3), frame or _WHITE, np.uint8)
    for i, x in enumerate(views.detach().cpu()):
        row[_GAP:-_GAP, i, _GAP:-_GAP] = draw(modality, x, tile)
    return row.reshape(outer, len(views) * outer, 3)


def _shown(modality: Modality, x: Tensor, tile: int) -> np.ndarray:
    """An image as uint8 `[tile, tile, 3]`, enlarged by a whole factor without smoothing."""
    factor = tile // max(x.shape[1:])
    pixels = (x.float().clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    pixels = functional.interpolate(pixels[None], scale_factor=factor, mode="nearest")[0]
    height, width = pixels.shape[1:]
    top, left = (tile - height) // 2, (tile - width) // 2
    out = np.full((tile, tile, 3), _WHITE, np.uint8)
    out[top : top + height, left : left + width] = pixels.permute(1, 2, 0).numpy()
    return out


def _written(modality: Modality, x: Tensor, tile: int) -> np.ndarray:
    """A text as uint8 `[tile, tile, 3]`, wrapped; what does not fit is cut off.

    A line of letters that fits is spread over the tile, so that each letter's place is seen.
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
    """A line of letters in the middle of the tile, each in a cell of its own; blanks are dots."""
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


def _beside(blocks: list[np.ndarray]) -> np.ndarray:
    space = np.full((blocks[0].shape[0], 3 * _GAP, 3), _WHITE, np.uint8)
    parts = [part for block in blocks for part in (block, space)]
    return np.concatenate(parts[:-1], axis=1)
