"""Reader of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from shalabench.datasets.sources.files import as_data_error


def read_picture(file: Path, mode: str = "RGB") -> np.ndarray:
    """Read a picture as uint8 `[H, W, C]`, or `[H, W]` where the mode is "L".

    Raises:
        DataError: It does not open.
    """
    with (
        as_data_error(f"The picture {file} does not open", "Delete it and fetch it again."),
        Image.open(file) as picture,
    ):
        return np.asarray(picture.convert(mode))
