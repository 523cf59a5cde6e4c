"""Pictures of runs, copied into the report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from shalabench.records.columns import RunRow
from shalabench.records.frame import Records
from shalabench.report import words
from shalabench.report.content import named_files


class Picture(NamedTuple):
    """A sheet of samples.

    Attributes:
        kind: Such as "joint" or "cross".
        file: From the report's folder.
        alt: What it shows, in words.
        size: Width and height in pixels, so that a page does not jump; None where unreadable.
    """

    kind: str
    file: str
    alt: str
    size: tuple[int, int] | None


class Pictures:
    """The pictures of a report, each copied once.

    Args:
        folder: Of the report.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[str, list[Picture]] = {}

    def of(self, run: RunRow, own: Records) -> list[Picture]:
        """The pictures of a run.

        Args:
            run: One of `own.rows`.
            own: The records of its row.
        """
        if run.run not in self._known:
            self._known[run.run] = list(self._copy(run, own))
        return self._known[run.run]

    def _copy(self, run: RunRow, own: Records) -> list[Picture]:
        pictures = []
        folder = own.folders[run.train_id]
        for kind, name in named_files(own.results[run.train_id], "pictures"):
            file = folder.picture(name)
            if file is None:
                continue
            target = f"pictures/{words.page_name(run.run)}/{words.page_name(file.stem)}"
            copy = self._folder / f"{target}{file.suffix}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            about = f"{words.picture_word(kind)} of {run.model}, seed {run.seed}, on {run.dataset}"
            alt = f"{about}: {words.picture_caption(kind)}"
            pictures.append(Picture(kind, f"{target}{file.suffix}", alt, _size(file)))
        return pictures


def _size(file: Path) -> tuple[int, int] | None:
    from PIL import Image, UnidentifiedImageError, WebPImagePlugin  # noqa: F401 (spares the others)

    try:
        with Image.open(file) as picture:  # only its head is read
            return picture.size
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
