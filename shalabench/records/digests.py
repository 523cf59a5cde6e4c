"""SHA-256 of the files of a run, so that damage is noticed when they are read. Free of torch.

A JSON file states the digest of its other bytes in its last field, a checkpoint in its name, and
trained.json that of the weights. Older files state none and are read unchecked.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from shalabench.api.errors import BenchError

FIELD = "sha256"
_SEAL = re.compile(rb',\n "(.{6})": "(.{64})"\n\}.?\Z', re.DOTALL)  # also one that is damaged
_CHECKPOINT = re.compile(r"(\d+)-(\d+)(?:-([0-9a-f]{64}))?\.pt")
_SET_ASIDE = ".damaged"  # behind the name, so that no search by suffix finds it


class Damaged(BenchError):
    """A file of a run is not as it was written."""


def digest_of(content: bytes) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def seal(text: bytes) -> bytes:
    """A JSON object, indented by one blank and ended by a line break, with its digest."""
    end = b"\n}\n"
    return text.removesuffix(end) + f',\n "{FIELD}": "{digest_of(text)}"'.encode() + end


def is_sealed(content: bytes) -> bool:
    """Whether a JSON file states a digest.

    Raises:
        ValueError: It states another than it has.
    """
    found = _SEAL.search(content)
    if found is None:
        return False
    text = content[: found.start()] + b"\n}\n"
    if (found[1], found[2]) != (FIELD.encode(), digest_of(text).encode()):
        raise ValueError("its SHA-256 is not the one that it states")
    return True


def read_checked(file: Path, digest: str | None) -> bytes:
    """The content of a file.

    Args:
        file: Any file of a run.
        digest: Its SHA-256; None where none was recorded.

    Raises:
        Damaged: It cannot be read, or has another digest.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Damaged(f"it cannot be read, {error.strerror}") from error
    if digest is not None and digest_of(content) != digest:
        raise Damaged("its SHA-256 is not the one that was recorded")
    return content


def checkpoint_name(stage: int, step: int, content: bytes) -> str:
    """Name of a checkpoint's file: stage, step and digest."""
    return f"{stage:02d}-{step:09d}-{digest_of(content)}.pt"


def parse_checkpoint(name: str) -> tuple[int, int, str | None] | None:
    """Stage, step and digest of a checkpoint from the name of its file; None for other files."""
    found = _CHECKPOINT.fullmatch(name)
    return (int(found[1]), int(found[2]), found[3]) if found else None


def set_aside(file: Path) -> None:
    """Rename a damaged file, so that it is read no more and nothing is lost."""
    with contextlib.suppress(OSError):
        os.replace(file, file.with_name(file.name + _SET_ASIDE))
