"""How the report writes names, numbers and captions."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from markupsafe import Markup, escape

_WORDS = {"joint": "Joint samples", "cross": "Translations", "reconstruction": "Reconstructions"}
_CAPTIONS = {
    "joint": "One sample a column, one modality a row.",
    "cross": "A block a given modality, which is framed on top; the generated ones below.",
    "reconstruction": "Real views and their reconstructions.",
    "views-sheet": "The given view framed, the generated ones beside it, the real ones below.",
    "consistency-sheet": "Joint samples, and framed below each the training object whose outlines "
    "fit best.",
    "style-transfer": "Source, reference (framed), the transfer, and the exact result below.",
}
KINDS = tuple(_WORDS)  # of pictures, in this order


def picture_word(kind: str) -> str:
    """A heading for pictures of a kind."""
    return _WORDS.get(kind, kind.capitalize())


def picture_caption(kind: str) -> str:
    """What pictures of a kind show, in a sentence."""
    return _CAPTIONS.get(kind, "A sheet of pictures.")


def page_name(name: str) -> str:
    """A file name that is safe everywhere, and different for each name."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name.replace("+", "plus")).strip("-.")
    if plain in (name, name.replace("+", "plus")):
        return plain
    return f"{plain[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def breakable(name: str) -> Markup:
    """A metric's name that may break after each part; escaped."""
    return escape(name).replace("/", Markup("/<wbr>")).replace("-", Markup("-<wbr>"))


def signed(value: float, digits: int) -> str:
    """A difference with its sign."""
    return dashed(f"{value:+.{digits}f}")


def dashed(text: str) -> str:
    """Hyphens before digits as minus signs."""
    return re.sub(r"-(?=[\d.])", "−", text)


def memory(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / 2**30:.1f} GiB" if size and size == size else "not recorded"


def count(number: float | None) -> str:
    """A number of parameters in millions."""
    return "not recorded" if number is None or number != number else f"{number / 1e6:.1f} M"


def device(provenance: dict[str, Any]) -> str:
    """The device and its threads."""
    if not provenance.get("device"):
        return ""
    threads = provenance.get("threads")
    many = f", {threads} thread{'s' * (threads != 1)}" if threads else ""
    return f"{provenance['device']}{many}"
