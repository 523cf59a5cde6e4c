"""Pictures of what a model generates, and how well it reconstructs."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from harness.api import (
    DataSpec,
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
    Tools,
    Translate,
    Views,
    register_evaluator,
    setting,
)

_TILE = 56  # pixels of a picture's tile; images are enlarged by whole factors up to it
_GAP = 2
_GIVEN = (20, 160, 60)  # frame of what was given
_WHITE = 255


class SamplesConfig(Settings):
    """How much is shown."""

    columns: int = setting(12, "Joint samples and reconstructions shown.", "ours", ge=1)
    sources: int = setting(6, "Test tuples shown for each given modality.", "ours", ge=1)
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "ours", ge=1)


@register_evaluator("samples", version=1)
class Samples(Evaluator):
    """Grids of joint samples, translations and reconstructions, and the reconstruction error."""

    Config = SamplesConfig
    metrics = (
        Metric(
            "reconstruction/mae",
            "lower",
            4,
            "mean absolute error of decoded posterior samples, values in [0, 1]",
        ),
        Metric(
            "reconstruction/token-accuracy",
            "higher",
            3,
            "tokens of texts that decoded posterior samples get right",
        ),
    )

    def run(self, model: Model, spec: DataSpec, split: Split, tools: Tools) -> Outcome:
        scores, pictures = [], {}
        if isinstance(model, Joint):
            n = self.config.columns
            pictures["joint"] = _grid([model.sample(n, tools.rng("joint"))], spec)
        if isinstance(model, Translate):
            pictures["cross"] = self._cross(model, spec, split, tools)
        if isinstance(model, Reconstruct):
            n = min(self.config.columns, len(split))
            real = split.batch(torch.arange(n, device=split.device)).views
            shown = model.reconstruct(real, tools.rng("reconstruction"))
            pictures["reconstruction"] = _grid([real, shown], spec)
            scores = self._errors(model, spec, split, tools)
        return Outcome(scores, {}, pictures)

    def _cross(self, model: Translate, spec: DataSpec, split: Split, tools: Tools) -> Tensor:
        n = min(self.config.sources, len(split))
        views = split.batch(torch.arange(n, device=split.device)).views
        blocks = []
        for source in spec.names:
            targets = [name for name in spec.names if name != source]
            made = model.translate({source: views[source]}, targets, tools.rng("cross", source))
            rows = [_row(spec[source], views[source], frame=True)]
            rows += [_row(spec[name], made[name]) for name in targets]
            blocks.append(_stack(rows))
        return torch.from_numpy(_beside(blocks))

    def _errors(
        self, model: Reconstruct, spec: DataSpec, split: Split, tools: Tools
    ) -> list[Score]:
        found: dict[str, list[Tensor]] = {name: [] for name in spec.names}
        for batch in split.batches(self.config.batch_size):
            first = int(batch.index[0])
            made = model.reconstruct(batch.views, tools.rng("reconstruction", first=first))
            for name, x in batch.views.items():
                found[name].append(_error(spec[name], made[name], x))
            tools.report(first + len(batch), len(split))
        scores = []
        for kind, metric in (
            ("image", "reconstruction/mae"),
            ("text", "reconstruction/token-accuracy"),
        ):
            parts = {n: torch.cat(e).double() for n, e in found.items() if spec[n].kind == kind}
            if parts:
                scores.append(_summary(metric, torch.stack(list(parts.values())).mean(0), None))
                scores += [_summary(metric, errors, name) for name, errors in parts.items()]
        return scores


def _error(modality: Modality, made: Tensor, real: Tensor) -> Tensor:
    if modality.kind == "text":
        return (made == real).double().mean(1)
    return (made.clamp(0, 1) - real).abs().flatten(1).mean(1)


def _summary(metric: str, items: Tensor, target: str | None) -> Score:
    n = len(items)
    stderr = (items.std() / n**0.5).item() if n > 1 else None
    return Score(metric, items.mean().item(), n, stderr, target=target)


def _grid(groups: list[Views], spec: DataSpec) -> Tensor:
    """A column a tuple, a row a modality, the groups' rows of a modality together."""
    rows = [_row(m, views[m.name]) for m in spec.modalities for views in groups]
    return torch.from_numpy(_stack(rows))


def _row(modality: Modality, views: Tensor, *, frame: bool = False) -> np.ndarray:
    tiles = [_tile(modality, x) for x in views.detach().cpu()]
    return np.concatenate([_framed(tile, frame) for tile in tiles], axis=1)


def _framed(tile: np.ndarray, frame: bool) -> np.ndarray:
    out = np.full((_TILE + 2 * _GAP, _TILE + 2 * _GAP, 3), _WHITE, np.uint8)
    if frame:
        out[:] = _GIVEN
    out[_GAP:-_GAP, _GAP:-_GAP] = tile
    return out


def _tile(modality: Modality, x: Tensor) -> np.ndarray:
    """One view as uint8 `[56, 56, 3]`."""
    if modality.kind == "text":
        return _written("".join(modality.vocabulary[token] for token in x.tolist()))
    pixels = (x.float().clamp(0, 1) * 255).round().expand(3, -1, -1)
    factor = _TILE / max(pixels.shape[1:])
    if factor >= 1:
        pixels = pixels.repeat_interleave(int(factor), 1).repeat_interleave(int(factor), 2)
    else:
        pixels = functional.interpolate(pixels[None], size=(_TILE, _TILE), mode="area")[0]
    out = np.full((_TILE, _TILE, 3), _WHITE, np.uint8)
    height, width = pixels.shape[1:]
    top, left = (_TILE - height) // 2, (_TILE - width) // 2
    out[top : top + height, left : left + width] = pixels.permute(1, 2, 0).byte().numpy()
    return out


def _written(text: str) -> np.ndarray:
    tile = Image.new("RGB", (_TILE, _TILE), "white")
    lines = [text[i : i + 8] for i in range(0, len(text), 8)]
    ImageDraw.Draw(tile).multiline_text(
        (2, 4), "\n".join(lines), fill="black", font=ImageFont.load_default(10)
    )
    return np.asarray(tile)


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(rows, axis=0)


def _beside(blocks: list[np.ndarray]) -> np.ndarray:
    space = np.full((blocks[0].shape[0], 3 * _GAP, 3), _WHITE, np.uint8)
    parts = [part for block in blocks for part in (block, space)]
    return np.concatenate(parts[:-1], axis=1)
