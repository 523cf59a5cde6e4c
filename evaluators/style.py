"""Style transfer: does a tuple, redrawn in the style of another, look as it truly would?

The protocol is ours (reproduction/style-transfer.md); the paper shows pictures only. Data that hold
each test tuple in another's style (`Split.facts`) give the exact truth. Scores lie between those of
two copies, the source and the reference, and the ceiling that the decoder sets.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Metric,
    Model,
    Outcome,
    Reconstruct,
    Rng,
    Settings,
    Split,
    Transfer,
    Views,
    register_evaluator,
    setting,
)
from shalabench.metrics.grids import Strip, draw_sheet
from shalabench.metrics.images import (
    WINDOW,
    foreground,
    lab,
    overlap,
    psnr,
    quantise,
    silhouette,
    ssim,
)
from shalabench.metrics.scores import Bootstrap
from shalabench.nets.viewpoints import describe_row, stack, why_no_views

_FACTS = ("style_reference", "restyled")
_COLOURS, _LIGHTS = 16, 8  # bins of a and b, of L (reproduction/style-transfer.md)
_RANGE = 110.0  # of a and b; sRGB reaches from -108 to 98
_SHOWN, _COLUMNS = 4, 8  # pairs and views of the picture
_TRUTH = "the true picture instead of the output"
_LIKENESS = {
    "psnr": (2, "PSNR in dB to the true pictures"),
    "psnr-foreground": (2, "as style/psnr, over pixels that are not white in either picture"),
    "ssim": (3, "SSIM to the true pictures"),
}
_TRANSFER = {
    "iou": "overlap (IoU) of the silhouettes of output and source",
    "iou-margin": "style/iou minus the overlap (IoU) of the silhouettes of output and reference",
    "preference": "share of tuples whose painted body is closer in colour (chi-square of CIELAB "
    "histograms) to the body of the reference than to that of the source",
}


class StyleConfig(Settings):
    """How much is measured, and how far transfers go."""

    items: int = setting(0, "Test tuples, the first ones; 0: all.", "our choice: all", ge=0)
    strength: float = setting(
        0.5,
        "Share of the diffusion that is redone, of the scores.",
        "our choice: the paper gives none (reproduction/style-transfer.md)",
        gt=0,
        le=1,
    )
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = setting(
        (0.125, 0.25, 0.5, 0.75, 1.0), "The same, of the curve.", "our choice", min_length=1
    )
    guidances: tuple[Annotated[float, Field(ge=0)], ...] = setting(
        (0.0, 2.0, 5.0),
        "Guidance scales of the curve besides the method's own, if it takes one.",
        "our choice",
    )
    curve_items: int = setting(
        0, "Test tuples of the curve, the first ones; 0: as `items`.", "our choice", ge=0
    )
    body: int = setting(
        1, "Number of the painted body in the fact 'parts'.", "our choice: the paint of cars", ge=1
    )
    batch_size: int = setting(25, "Tuples at a time; changes no result.", "our choice", ge=1)


def _metrics() -> tuple[Metric, ...]:
    metrics = []
    for kind, (digits, meaning) in _LIKENESS.items():
        name = f"style/{kind}"
        of_decoder = f"as {name}, of the true pictures after encoding and decoding"
        to_ceiling = (
            f"{name} on a scale from the higher score of the two copies (0) to the ceiling (1)"
        )
        metrics += [
            Metric(name, "higher", digits, f"{meaning}, mean over views, then tuples"),
            Metric(f"{name}-ceiling", "higher", digits, of_decoder),
            Metric.share(f"{name}-gain", to_ceiling),
        ]
        for copy in ("source", "reference"):
            bound, meaning = f"floor-{copy}/{name}", f"a copy of the {copy}"
            metrics.append(Metric(bound, "higher", digits, meaning, role="floor", of=name))
    for kind, meaning in _TRANSFER.items():
        name = f"style/{kind}"
        bound = Metric.share(f"ceiling-truth/{name}", _TRUTH, role="ceiling", of=name)
        metrics += [Metric.share(name, meaning), bound]
    return tuple(metrics)


@register_evaluator("style", version=1)
class Style(Evaluator):
    """Similarity of style transfers to the true pictures, which the data contain."""

    Config = StyleConfig
    needs = (Transfer,)
    metrics = _metrics()

    def skip(self, model: type[Model], spec: DataSpec) -> str | None:
        reason = why_no_views(spec)
        if reason is None and spec.modalities[0].shape[1] < WINDOW:
            reason = f"SSIM needs pictures of at least {WINDOW} x {WINDOW} pixels."
        return reason or super().skip(model, spec)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        missing = [name for name in _FACTS if name not in split.facts]
        if missing:
            reason = f"This split of '{spec.name}' has no {' and '.join(missing)}, so no truth."
            warnings.warn(reason, stacklevel=2)
            return Outcome([], {"skipped": reason})
        work = _Measurement(self.config, model, spec, split, context)
        work.measure()
        details = {
            "row": describe_row(model, spec, f"strength {self.config.strength:g}"),
            "intervals": work.summary.intervals,
            "curve": work.curve(),
        }
        texts = {"curve": _table(details["curve"])}
        return Outcome(work.summary.scores, details, {"transfer": work.picture()}, texts)


@dataclass
class _Measurement:
    """A model, and test tuples whose true pictures in another's style are known.

    Attributes:
        summary: The scores.
    """

    config: StyleConfig
    model: Model
    spec: DataSpec
    split: Split
    context: EvalContext

    def __post_init__(self):
        config, self.names = self.config, self.spec.names
        self.items = min(config.items or len(self.split), len(self.split))
        self.curve_items = min(config.curve_items or self.items, self.items)
        self.summary = Bootstrap(self.context.rng("bootstrap"))
        guided = "guidance" in inspect.signature(self.model.transfer).parameters
        self._guidances = (None, *config.guidances) if guided else (None,)
        once = 4 + isinstance(self.model, Reconstruct)
        curve = len(self._guidances) * len(config.strengths)
        self.context.expect(once * self.items + curve * self.curve_items)

    def measure(self) -> None:
        """Score one strength, the copies, the truth, and the decoder."""
        made = self._compare(self._transfer(self.config.strength), self.items)
        copies = {
            "source": self._compare(lambda part, _: part.source, self.items),
            "reference": self._compare(lambda part, _: part.reference, self.items),
        }
        truth = self._compare(lambda part, _: part.truth, self.items)
        ceiling = None
        if isinstance(self.model, Reconstruct):
            ceiling = self._compare(self._reconstruct, self.items, "ceiling")
        for kind in _LIKENESS:
            self.summary.add_mean(f"style/{kind}", made[kind])
            for name, values in copies.items():
                self.summary.add_mean(f"floor-{name}/style/{kind}", values[kind])
            if ceiling is not None:
                self.summary.add_mean(f"style/{kind}-ceiling", ceiling[kind])
                rows = [made, copies["source"], copies["reference"], ceiling]
                rows = torch.stack([values[kind] for values in rows])
                self.summary.add(f"style/{kind}-gain", rows, lambda x: gain(*x.mean(-1)))
        for kind in _TRANSFER:
            if kind in made:
                self.summary.add_mean(f"style/{kind}", made[kind])
                self.summary.add_mean(f"ceiling-truth/style/{kind}", truth[kind])

    def curve(self) -> list[dict[str, float | None]]:
        """Means over some tuples at each strength and guidance scale (None: the method's own)."""
        rows = []
        for guidance in self._guidances:
            for strength in self.config.strengths:
                values = self._compare(self._transfer(strength, guidance), self.curve_items)
                means = {name: x.nanmean().item() for name, x in values.items()}
                rows.append({"strength": strength, "guidance": guidance, **means})
        return rows

    def picture(self) -> Tensor:
        """Source, reference (framed), output and truth of some pairs, one below the other."""
        part = self._part(torch.arange(min(_SHOWN, self.items), device=self.split.device))
        output = self._transfer(self.config.strength)(part, self.context.rng("style"))
        step = max(1, len(self.names) // _COLUMNS)
        rows = [x[:, ::step] for x in (part.source, part.reference, output, part.truth)]
        every = range(rows[0].shape[1])
        return draw_sheet(
            [
                [Strip(source), Strip(reference, every), Strip(made), Strip(truth)]
                for source, reference, made, truth in zip(*rows, strict=True)
            ]
        )

    def _compare(
        self, make: Callable[[_Part, Rng], Tensor], n: int, purpose: str = "style"
    ) -> dict[str, Tensor]:
        """Values `[n]`, by name, of the pictures that are made for each tuple."""

        def compare(index: Tensor, rng: Rng) -> dict[str, Tensor]:
            part = self._part(index)
            made = make(part, rng)
            return part.compare(quantise(made, f"'{self.names[0]}' to '{self.names[-1]}'"))

        return self.context.map(compare, n, self.config.batch_size, purpose)

    def _part(self, index: Tensor) -> _Part:
        return _Part(self.split, index, self.names, self.config.body)

    def _transfer(
        self, strength: float, guidance: float | None = None
    ) -> Callable[[_Part, Rng], Tensor]:
        extra: dict[str, Any] = {} if guidance is None else {"guidance": guidance}

        def transfer(part: _Part, rng: Rng) -> Tensor:
            made = self.model.transfer(part.sources, part.references, strength, rng, **extra)
            return stack(made, self.names)

        return transfer

    def _reconstruct(self, part: _Part, rng: Rng) -> Tensor:
        truth = {name: part.truth[:, i].float() for i, name in enumerate(self.names)}
        return stack(self.model.reconstruct(truth, rng), self.names)


class _Part:
    """Some tuples, each with its reference and its true pictures in the reference's style.

    Attributes:
        sources: The tuples, as a model takes them.
        references: The references, as a model takes them.
        source: The tuples' pictures `[b, V, C, R, R]` in [0, 1], float64.
        reference: The same of the references.
        truth: The same of the true pictures.
    """

    def __init__(self, split: Split, index: Tensor, names: tuple[str, ...], body: int):
        other = split.facts["style_reference"][index]
        self.sources: Views = split.batch(index).views
        self.references: Views = split.batch(other).views
        self.source = quantise(stack(self.sources, names))
        self.reference = quantise(stack(self.references, names))
        self.truth = split.facts["restyled"][index].double() / 255
        self._bodies = None
        if "parts" in split.facts:
            parts = split.facts["parts"]
            self._bodies = parts[index] == body, parts[other] == body

    def compare(self, made: Tensor) -> dict[str, Tensor]:
        """Values `[b]` of outputs, means over the views."""
        mask = foreground(made)
        shape = silhouette(made)
        iou, other = (overlap(shape, silhouette(x)).mean(1) for x in (self.source, self.reference))
        values = {
            "psnr": psnr(made, self.truth).mean(1),
            "psnr-foreground": psnr(made, self.truth, mask | foreground(self.truth)).mean(1),
            "ssim": ssim(made, self.truth).mean(1),
            "iou": iou,
            "iou-margin": iou - other,
        }
        if self._bodies is not None:
            bodies, others = self._bodies
            output = colours(made, bodies)
            to_reference = chi_square(output, colours(self.reference, others))
            to_source = chi_square(output, colours(self.source, bodies))
            # 1 or 0; a half if both are equally close, as when the two styles are the same.
            values["preference"] = (torch.sign(to_source - to_reference) + 1) / 2
        return values


def gain(made: Tensor, source: Tensor, reference: Tensor, ceiling: Tensor) -> Tensor:
    """Where a score lies between the better copy (0) and the decoder's ceiling (1).

    NaN if the ceiling is no higher than the copies.
    """
    copies = torch.maximum(source, reference)
    return torch.where(ceiling > copies, (made - copies) / (ceiling - copies), torch.nan)


def colours(pictures: Tensor, masks: Tensor) -> Tensor:
    """CIELAB histograms of the pixels in a tuple's masks, all views together.

    Args:
        pictures: `[b, V, 3, H, W]` in [0, 1].
        masks: `[b, V, H, W]` bool.

    Returns:
        `[b, 264]`: 16 x 16 shares of (a, b), then 8 of L; NaN where the masks are empty.
    """
    items = masks.nonzero()[:, 0]  # [P]
    light, a, b = lab(pictures.movedim(2, -1)[masks]).T
    first, second = (
        ((x / _RANGE + 1) / 2 * _COLOURS).floor().clamp(0, _COLOURS - 1) for x in (a, b)
    )
    shade = (light / 100 * _LIGHTS).floor().clamp(0, _LIGHTS - 1)
    histograms = []
    for bin_, bins in ((first * _COLOURS + second, _COLOURS**2), (shade, _LIGHTS)):
        counts = torch.bincount(items * bins + bin_.long(), minlength=len(masks) * bins)
        histograms.append(counts.view(len(masks), bins) / masks.flatten(1).sum(1, keepdim=True))
    return torch.cat(histograms, dim=1).double()


def chi_square(a: Tensor, b: Tensor) -> Tensor:
    """Distance `[...]` of histograms `[..., K]`, sum of (a - b)^2 / (a + b) over 2."""
    return ((a - b).square() / (a + b).clamp(min=1e-12)).sum(-1) / 2


def _table(curve: list[dict[str, float | None]]) -> str:
    """The curve as text, a line for each strength and guidance scale."""
    heading = " ".join(f"{name:>15}" for name in curve[0])
    lines = [
        " ".join(f"{'own' if value is None else f'{value:.3f}':>15}" for value in row.values())
        for row in curve
    ]
    return "\n".join([heading, *lines]) + "\n"
