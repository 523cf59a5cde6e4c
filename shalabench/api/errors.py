"""Errors that a user can correct, and the search for the nearest name in their messages."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class BenchError(Exception):
    """A mistake that the user can correct; the command line shows its message only."""

    exit_code = 2


class DataError(BenchError):
    """Data are missing, half-downloaded, damaged, or of the wrong kind."""


class ConfigErrors(BenchError):
    """Several configuration mistakes, collected and reported together before any work."""

    def __init__(self, messages: Iterable[str]):
        self.messages = list(messages)
        super().__init__("\n".join(self.messages))


class Diverged(BenchError):
    """A loss term was not finite, or far above its earlier values, or did not come back to them.

    Args:
        stage: Name of the stage.
        step: Update at which the value was read.
        term: Name of the loss term.
        value: The value, if it is finite.
        before: The value before it ran away, if it came back, but not to this one.
    """

    exit_code = 1

    def __init__(
        self,
        stage: str,
        step: int,
        term: str,
        value: float | None = None,
        before: float | None = None,
    ):
        self.stage, self.step, self.term = stage, step, term
        what = "was not finite" if value is None else f"had run away to {value:.3g}"
        if before is not None:
            what = f"ran away from {before:.4g} and had come back to only {value:.4g}"
        super().__init__(
            f"The loss term '{term}' of stage '{stage}' {what} by step {step}. "
            "Lower the learning rate, clip (--set model.optimiser.clip=NORM), or run with "
            "--set train.precision=float32."
        )


_NEAR = 0.65  # of `difflib`: a letter in four is another


def unknown(kind: str, name: str, allowed: Iterable[str]) -> str:
    """A message that `name` is not a known `kind`, with the nearest known name and all names.

    Args:
        kind: Kind of thing, as a noun ("model", "preset", "setting").
        name: The name that was given.
        allowed: All valid names.

    Returns:
        One message of two or three sentences.
    """
    allowed = sorted(allowed, key=lambda known: (known.count("/"), known))  # short names first
    plain = re.sub(r"[-_ ]?plus\b", "+", name)  # "mmvae-plus" means mmvae+, and not mmvae
    names = {known.lower(): known for known in allowed}
    near = difflib.get_close_matches(plain.lower(), names, n=1, cutoff=_NEAR)
    hint = f" Did you mean '{names[near[0]]}'?" if near else ""
    listing = f" Known: {', '.join(allowed)}." if allowed else f" No {kind} is known here."
    return f"Unknown {kind} '{name}'.{hint}{listing}"


# A GPU's error has a class of its own in torch; those of a CPU, of cuBLAS and of cuDNN do not.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was not enough; asked without importing torch."""
    if isinstance(error, RuntimeError):
        return any(text in str(error) for text in _NO_MEMORY)
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
