"""Reading of a store's files: whatever lies there, it reads or is named in a sentence."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError

DAMAGED = (BenchError, ValueError, TypeError, LookupError, AttributeError)
"""What is raised where a record does not read, or has another form."""
_DEEPEST = 100  # levels of a record
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # how half of a surrogate pair is written


def regular(file: Path, root: Path) -> Path | None:
    """The path if a file is there that is no link and that no link leads to out of a folder.

    Args:
        file: Below `root`.
        root: A record's folder, which may itself be a link.
    """
    try:
        is_own = file.resolve() == root.resolve() / file.relative_to(root)
        return file if is_own and file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # such as a name that is too long, or a loop
        return None


def printable(text: str) -> str:
    """A text with what UTF-8 cannot hold, such as bytes of a file's name, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def files_in(folder: Path, suffix: str) -> list[Path]:
    """What a folder holds that ends so and is not hidden, in the order of the names.

    Raises:
        BenchError: The folder is there and cannot be listed.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(folder, error) from error
    return [folder / n for n in sorted(names) if n.endswith(suffix) and not n.startswith(".")]


def parse_json(text: bytes, *, is_checked: bool = False) -> Any:
    """The value of a JSON text in UTF-8.

    Args:
        text: What is parsed.
        is_checked: Whether its depth was checked before.

    Raises:
        ValueError: The text is not JSON in UTF-8, is nested more than 100 deep, or contains half of
            a surrogate pair.
    """
    decoded = text.decode("utf-8")
    try:
        content = json.loads(decoded)
    except RecursionError:
        raise ValueError(f"nested more than {_DEEPEST} deep") from None
    if _HALF_PAIR.search(decoded):
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("half of a surrogate pair, which is no text") from None
        except RecursionError:
            raise ValueError(f"nested more than {_DEEPEST} deep") from None
    if not is_checked and _is_deep(content):
        raise ValueError(f"nested more than {_DEEPEST} deep")
    return content


def terms_of(event: Mapping[str, Any]) -> dict[str, float]:
    """The terms of the loss in an event of progress, by name; they need not be finite."""
    place = ("time", "kind", "stage", "step")
    return {k: v for k, v in event.items() if k not in place and type(v) in (int, float)}


def _is_deep(content: Any) -> bool:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(_DEEPEST):
        inner = (x for c in level for x in (c.values() if isinstance(c, dict) else c))
        level = [x for x in inner if isinstance(x, dict | list)]
    return bool(level)


def unreadable(path: Path, error: Exception) -> BenchError:
    """What is raised where a file of a run does not read."""
    return BenchError(
        printable(
            f"The record {path} does not read ({error}). Move its run's folder away and run the "
            "command that made it again."
        )
    )
