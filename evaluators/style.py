"""Style transfer: is a tuple, redrawn in the style of another, what it would truly look like?

Our protocol (reproduction/style-transfer.md); the paper shows pictures only. Where data record
each test tuple in another's style (`Split.facts`), the truth is exact. Figures stand between those
of the two copies, the untouched source and the pasted reference, and the decoder's own ceiling.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
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
    Summary,
    foreground,
    lab,
    overlap,
    psnr,
    quantise,
    silhouette,
    ssim,
)
from shalabench.nets.viewpoints import describe_row, stack, why_no_views

_FACTS = ("style_reference", "restyled")
_COLOURS, _LIGHTS = 16, 8  # bins of a and b, of L (reproduction/style-transfer.md)
_RANGE = 110.0  # of a and b; sRGB reaches from -108 to 98
_SHOWN, _COLUMNS = 4, 8  # pairs and views of a figure
_TRUTH = "the true picture in the output's place"


class StyleConfig(Settings):
    """How much is measured, and how far transfers go."""

    items: int = setting(0, "Test tuples, the first ones; 0: all.", "ours: all", ge=0)
    strength: float = setting(
        0.5, "Part of the diffusion that is redone, of the figures.", "not given: ours", gt=0, le=1
    )
    strengths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = setting(
        (0.125, 0.25, 0.5, 0.75, 1.0), "The same, of the curve.", "ours", min_length=1
    )
    guidances: tuple[Annotated[float, Field(ge=0)], ...] = setting(
        (0.0, 2.0, 5.0),
        "Guidance scales of the curve besides the method's own, where it takes one.",
        "ours",
    )
    curve_items: int = setting(
        0, "Test tuples of the curve, the first ones; 0: as `items`.", "ours", ge=0
    )
    body: int = setting(1, "Number of the painted body in the fact 'parts'.", "cars: paint", ge=1)
    batch_size: int = setting(25, "Tuples at a time; changes no result.", "ours", ge=1)


def _metrics() -> tuple[Metric, ...]:
    kinds = {
        "psnr": (2, "peak signal-to-noise ratio in dB to the true pictures"),
        "psnr-foreground": (2, "as style/psnr, over pixels that are not white in either picture"),
        "ssim": (3, "structural similarity to the true pictures"),
    }
    found = []
    for kind, (digits, what) in kinds.items():
        found += [
            Metric(f"style/{kind}", "higher", digits, f"{what}, mean over all views, then tuples"),
            Metric(
                f"style/{kind}-ceiling",
                "higher",
                digits,
                f"as style/{kind}, of the true pictures encoded and decoded",
            ),
            Metric(
                f"style/{kind}-gain",
                "higher",
                3,
                f"style/{kind} from the better copy (0; below, no transfer) to the ceiling (1)",
            ),
        ]
        for copy in ("source", "reference"):
            name = f"floor-{copy}/style/{kind}"
            meaning, of = f"a copy of the {copy}", f"style/{kind}"
            found.append(Metric(name, "higher", digits, meaning, role="floor", of=of))
    shape_and_style = {
        "iou": "overlap (IoU) of silhouettes, output and source",
        "iou-margin": "the same less the output's overlap with the reference",
        "preference": "tuples whose painted body is nearer in colour (chi-square of CIELAB "
        "histograms) to the reference's than to the source's",
    }
    for kind, what in shape_and_style.items():
        name = f"style/{kind}"
        found.append(Metric(name, "higher", 3, what))
        bound = f"ceiling-truth/{name}"
        found.append(Metric(bound, "higher", 3, _TRUTH, role="ceiling", of=name))
    return tuple(found)


@register_evaluator("style", version=1)
class Style(Evaluator):
    """Style carried from one tuple to another, against the exact truth."""

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
            reason = f"This split of '{spec.name}' records no {' and '.join(missing)}: no truth."
            warnings.warn(reason, stacklevel=2)
            return Outcome([], {"skipped": reason})
        bench = _Bench(self.config, model, spec, split, context)
        bench.measure()
        details = {
            "row": describe_row(model, spec, f"strength {self.config.strength:g}"),
            "intervals": bench.summary.intervals,
            "curve": bench.curve(),
        }
        texts = {"curve": _table(details["curve"])}
        return Outcome(bench.summary.scores, details, {"transfer": bench.figure()}, texts)


class _Bench:
    """A model, and test tuples whose true pictures in another's style are known.

    Attributes:
        summary: What was found.
    """

    def __init__(
        self,
        config: StyleConfig,
        model: Model,
        spec: DataSpec,
        split: Split,
        context: EvalContext,
    ):
        self.config, self.model, self.spec, self.context = config, model, spec, context
        self.split, self.names = split, spec.names
        self.items = min(config.items or len(split), len(split))
        self.curve_items = min(config.curve_items or self.items, self.items)
        self.summary = Summary(context.rng("bootstrap"))
        guided = "guidance" in inspect.signature(model.transfer).parameters
        self._guidances = (None, *config.guidances) if guided else (None,)
        self._done = 0

    def measure(self) -> None:
        """The figures at one strength, of the copies, of the truth, and of the decoder."""
        made = self._figures(self._transfer(self.config.strength), self.items)
        copies = {
            name: self._figures(lambda part, own=name: getattr(part, own), self.items)
            for name in ("source", "reference")
        }
        truth = self._figures(lambda part: part.truth, self.items)
        ceiling = None
        if isinstance(self.model, Reconstruct):
            ceiling = self._figures(self._reconstruct, self.items)
        for kind in ("psnr", "psnr-foreground", "ssim"):
            self.summary.add_mean(f"style/{kind}", made[kind])
            for name, own in copies.items():
                self.summary.add_mean(f"floor-{name}/style/{kind}", own[kind])
            if ceiling is not None:
                self.summary.add_mean(f"style/{kind}-ceiling", ceiling[kind])
                rows = [made, copies["source"], copies["reference"], ceiling]
                rows = torch.stack([own[kind] for own in rows])
                self.summary.add(f"style/{kind}-gain", rows, lambda x: gain(*x.mean(-1)))
        for kind in ("iou", "iou-margin", "preference"):
            if kind in made:
                self.summary.add_mean(f"style/{kind}", made[kind])
                self.summary.add_mean(f"ceiling-truth/style/{kind}", truth[kind])

    def curve(self) -> list[dict[str, float | None]]:
        """Means over some tuples at each strength and guidance; None: the method's own."""
        found = []
        for guidance in self._guidances:
            for strength in self.config.strengths:
                own = self._figures(self._transfer(strength, guidance), self.curve_items)
                means = {name: values.nanmean().item() for name, values in own.items()}
                found.append({"strength": strength, "guidance": guidance, **means})
        return found

    def figure(self) -> Tensor:
        """Source, reference (framed), output and truth of some pairs, one below the other."""
        part = self._part(0, min(_SHOWN, self.items))
        output = self._transfer(self.config.strength)(part)
        step = max(1, len(self.names) // _COLUMNS)
        rows = [x[:, ::step] for x in (part.source, part.reference, output, part.truth)]
        every = tuple(range(rows[0].shape[1]))
        return draw_sheet(
            [
                [Strip(source), Strip(reference, every), Strip(made), Strip(truth)]
                for source, reference, made, truth in zip(*rows, strict=True)
            ]
        )

    def _figures(self, make: Callable[[_Part], Tensor], n: int) -> dict[str, Tensor]:
        """Figures `[n]` of the pictures that are made for each tuple."""
        found: dict[str, list[Tensor]] = {}
        for first in range(0, n, self.config.batch_size):
            part = self._part(first, min(self.config.batch_size, n - first))
            made = quantise(make(part), f"'{self.names[0]}' to '{self.names[-1]}'")
            for name, values in part.figures(made).items():
                found.setdefault(name, []).append(values)
            self._done += part.size
            self.context.report(self._done, max(self._done, self._amount()))
        return {name: torch.cat(values) for name, values in found.items()}

    def _part(self, first: int, size: int) -> _Part:
        index = torch.arange(first, first + size, device=self.split.device)
        return _Part(self.split, index, self.names, self.config.body)

    def _transfer(self, strength: float, guidance: float | None = None) -> Callable[..., Tensor]:
        extra: dict[str, Any] = {} if guidance is None else {"guidance": guidance}

        def transfer(part: _Part) -> Tensor:
            rng = self.context.rng("style", first=int(part.index[0]))
            made = self.model.transfer(part.sources, part.references, strength, rng, **extra)
            return stack(made, self.names)

        return transfer

    def _reconstruct(self, part: _Part) -> Tensor:
        rng = self.context.rng("ceiling", first=int(part.index[0]))
        truth = {name: part.truth[:, i].float() for i, name in enumerate(self.names)}
        return stack(self.model.reconstruct(truth, rng), self.names)

    def _amount(self) -> int:
        """Tuples that all passes go through, for the progress display."""
        once = 4 + isinstance(self.model, Reconstruct)
        curve = len(self._guidances) * len(self.config.strengths)
        return once * self.items + curve * self.curve_items


class _Part:
    """Some tuples, each with its reference and its true pictures in that one's style.

    Attributes:
        index: `[b]`, their numbers.
        sources: The tuples, as a model takes them.
        references: The references, as a model takes them.
        source: The tuples' pictures `[b, V, C, R, R]` in [0, 1], float64; so `reference`, `truth`.
    """

    def __init__(self, split: Split, index: Tensor, names: tuple[str, ...], body: int):
        self.index, self.size = index, len(index)
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

    def figures(self, made: Tensor) -> dict[str, Tensor]:
        """Figures `[b]` of outputs, means over the views."""
        mask = foreground(made)
        shape = silhouette(made)
        iou, other = (overlap(shape, silhouette(x)).mean(1) for x in (self.source, self.reference))
        found = {
            "psnr": psnr(made, self.truth).mean(1),
            "psnr-foreground": psnr(made, self.truth, mask | foreground(self.truth)).mean(1),
            "ssim": ssim(made, self.truth).mean(1),
            "iou": iou,
            "iou-margin": iou - other,
        }
        if self._bodies is not None:
            own, others = self._bodies
            output = colours(made, own)
            to_reference = chi_square(output, colours(self.reference, others))
            to_source = chi_square(output, colours(self.source, own))
            # 1 or 0; a half where both are as near, as where nothing tells the two styles apart.
            found["preference"] = (torch.sign(to_source - to_reference) + 1) / 2
        return found


def gain(made: Tensor, source: Tensor, reference: Tensor, ceiling: Tensor) -> Tensor:
    """Where a figure lies between the better copy (0) and the decoder's ceiling (1).

    NaN where the ceiling is no higher than the copies, so that nothing lies between.
    """
    copies = torch.maximum(source, reference)
    return torch.where(ceiling > copies, (made - copies) / (ceiling - copies), torch.nan)


def colours(pictures: Tensor, masks: Tensor) -> Tensor:
    """Histograms of what lies in a tuple's masks, all views together, in CIELAB.

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
    found = []
    for place, bins in ((first * _COLOURS + second, _COLOURS**2), (shade, _LIGHTS)):
        counts = torch.bincount(items * bins + place.long(), minlength=len(masks) * bins)
        found.append(counts.view(len(masks), bins) / masks.flatten(1).sum(1, keepdim=True))
    return torch.cat(found, dim=1).double()


def chi_square(a: Tensor, b: Tensor) -> Tensor:
    """Distance `[...]` of histograms `[..., K]`, sum of (a - b)^2 / (a + b) over 2."""
    return ((a - b).square() / (a + b).clamp(min=1e-12)).sum(-1) / 2


def _table(curve: list[dict[str, float | None]]) -> str:
    """The curve as text, a line a strength and guidance."""
    heading = " ".join(f"{name:>15}" for name in curve[0])
    lines = [
        " ".join(f"{'own' if value is None else f'{value:.3f}':>15}" for value in row.values())
        for row in curve
    ]
    return "\n".join([heading, *lines]) + "\n"
