"""Reader of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from shalabench.api import DataError


def read_picture(file: Path, mode: str = "RGB") -> np.ndarray:
    """Read a picture as uint8 `[H, W, C]`, or `[H, W]` where the mode is "L".

    Raises:
        DataError: It does not open.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on damage
        raise DataError(
            f"The picture {file} does not open ({error}). Delete it and fetch it again."
        ) from error
