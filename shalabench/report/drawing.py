"""The look of all figures, and how they are written: SVG for a page; PNG, SVG, PDF for a paper."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

INK = {
    "ink": "#17191c",
    "muted": "#6b7076",
    "rule": "#d9dbde",
    "accent": "#0b62a8",
    "paper": "#b5520b",
    "surface": "#fefefe",
}
WIDTH = 4.6  # inches; at ten points the letters stay readable on a phone
GAPS = {"hspace": 0.55, "wspace": 0.14}
ACROSS = 3  # small panels in a row
_PANEL = 1.35  # inches of a small multiple's height
LINES = ("#0b62a8", "#b5520b", "#2a7d5f", "#8a4f9e", "#8c7a10", "#4a4f57", "#c23b5e", "#3f9fd1")
PRIOR_MARKS = {"own": "o", "gmm": "s", "diffusion": "^"}  # by the value of `prior.kind`
FRAME: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.edgecolor": INK["rule"],
    "axes.labelcolor": INK["muted"],
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.color": INK["ink"],
    "xtick.color": INK["muted"],
    "ytick.color": INK["muted"],
    "xtick.labelcolor": INK["muted"],
    "ytick.labelcolor": INK["ink"],
    "xtick.bottom": False,  # no lines beside labels, which are drawn even without a length
    "ytick.left": False,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "svg.hashsalt": "shala-bench",
    "pdf.fonttype": 42,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # names are no formulas, and parsing costs a third of the time
}


@dataclass(frozen=True)
class Drawing:
    """A figure with its words.

    Attributes:
        figure: A matplotlib figure.
        title: Of one line.
        alt: What it shows, for readers who do not see it.
    """

    figure: Any
    title: str
    alt: str


@contextmanager
def canvas(
    height: float, left: float, right: float, top: float, below: float, width: float = WIDTH
) -> Iterator[Any]:
    """A figure with margins in inches: fixed ones, for computed ones take most of the time."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(FRAME):
        figure = Figure(figsize=(width, height))
        figure.subplots_adjust(
            left=left / width,
            right=1 - right / width,
            top=1 - top / height,
            bottom=below / height,
        )
        yield figure


@contextmanager
def panels(names: list[str], left: float, across: str) -> Iterator[tuple[Any, list[Any]]]:
    """A figure of small panels, three across, each with its name; `across` names their axis.

    There is room for a legend above them.
    """
    down = math.ceil(len(names) / ACROSS)
    with canvas(down * _PANEL + 0.4, left, 0.12, 0.45, 0.45) as figure:
        grid = figure.subplots(down, ACROSS, squeeze=False, gridspec_kw=GAPS)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, names, strict=False):
            axes.set_title(one_line(name), fontsize=8.5, loc="left", pad=2)
            axes.tick_params(axis="x", labelsize=7.5)
        height = figure.get_size_inches()[1]
        figure.supxlabel(across, y=0.05 / height, fontsize=8.5, c=INK["muted"])
        yield figure, list(grid.flat[: len(names)])


def legend(figure: Any, looks: dict[str, dict[str, Any]]) -> None:
    """A line above all panels that says what colours and marks mean.

    Args:
        figure: With at least 0.3 inches of room at its top.
        looks: By label, what a line is drawn with.
    """
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **look) for label, look in looks.items()]
    figure.legend(
        handles=handles,
        loc="upper center",
        ncols=len(handles),
        frameon=False,
        fontsize=8,
        handlelength=1.4,
        borderaxespad=0.2,
    )


def margin_for(names: Any, size: float = 9.5) -> float:
    """Inches that the longest of some names takes; short ones may be all m's."""
    letters = max(len(name) for name in names)
    return 0.12 + (0.5 + 0.56 * letters) * size / 72


def line(axes: Any, steps: Any, values: Any, colour: str, **options: Any) -> None:
    """Draw a line with round joints."""
    axes.plot(steps, values, c=colour, solid_joinstyle="round", **options)


def mark_decades(axis: Any, form: Any) -> None:
    """Ticks of a logarithmic axis, at 1 and 3 of each decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def one_line(text: str) -> str:
    """A name on one line."""
    return " ".join(str(text).split())


def as_svg(drawing: Drawing) -> str:
    """For a page: letters as text in the page's font, colours as the page's variables."""
    from markupsafe import escape
    from matplotlib import rc_context

    with rc_context({**FRAME, "svg.fonttype": "none"}):
        out = io.StringIO()
        drawing.figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"font: (\S+) [^;\"]+", r"font-size: \1", text)
    for name, colour in INK.items():
        text = text.replace(colour, f"var(--{name})")
    for index, colour in enumerate(LINES):
        text = text.replace(colour, f"var(--line{index})")
    text = re.sub(r' (width|height)="[^"]+pt"', "", text, count=2)
    own = sha256(drawing.alt.encode()).hexdigest()[:6]  # several figures share a page
    text = re.sub(r' id="(?![mp][0-9a-f]{10}")[^"]*"', "", text)
    text = re.sub(r'(id="|href="#|url\(#)([mp][0-9a-f]{10})', rf"\g<1>f{own}\g<2>", text)
    label = f'<svg role="img" aria-label="{escape(drawing.alt)}"'
    return text.replace("<svg", label, 1).strip()


FORMS = ("png", "svg", "pdf")  # of a file
_LOOK: dict[str, dict[str, Any]] = {  # no date in any
    "png": {"dpi": 200, "facecolor": "#ffffff", "metadata": {"Software": "shala-bench"}},
    "svg": {"metadata": {"Date": None, "Creator": "shala-bench"}},
    "pdf": {"metadata": {"CreationDate": None, "Creator": "shala-bench"}},
}


def as_file(drawing: Drawing, form: str) -> bytes:
    """For a paper or slides: one of FORMS; letters of "svg" are outlines."""
    from matplotlib import rc_context

    with rc_context(FRAME):
        out = io.BytesIO()
        drawing.figure.savefig(out, format=form, **_LOOK[form])
    return out.getvalue()
