"""Reader of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from shalabench.api import DataError


def read_picture(file: Path) -> np.ndarray:
    """Read a picture as uint8 `[H, W, 3]`.

    Raises:
        DataError: It does not open.
    """
    try:
        with Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow tells damage by any of them
        raise DataError(
            f"The picture {file} does not open ({error}). Delete it and fetch it again."
        ) from error
