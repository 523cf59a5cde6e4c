"""Atomic writes, so that a file has either its old or its new content; and project folders."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from shalabench.api.errors import BenchError

_PACKAGE = Path(__file__).parent.parent
_HOST = platform.node()[:32].replace("/", "")
_TOKEN = secrets.token_hex(4)  # containers give the number of a dead process to the next one
_COUNT = itertools.count()  # threads of a process write different files
_TEMPORARY = re.compile(r"\.(?P<host>.*)-(?P<pid>\d+)-(?P<token>[0-9a-f]{8})-\d+\.tmp")
_OLDER = re.compile(  # names of earlier versions
    r"\..+\.(?P<pid>\d+)\.tmp|\.(?P<first>\d+)-.+\.(json|pt|png|webp|npz|gz)"
)
_LONGEST_WRITE = 86400.0  # seconds
# In place of the cache where there is no home directory; below a file, so that nothing is there.
NO_HOME = Path(os.devnull) / "there is no home directory"


def clone() -> Path | None:
    """The clone that holds this package, or None where it was installed from a wheel."""
    root = _PACKAGE.parent
    return root if (root / "bench.py").is_file() and (root / "results").is_dir() else None


def committed() -> Path:
    """The folder of the packaged records, with `reference`, `studies` and `weights`."""
    root = clone()
    return root / "results" if root else _PACKAGE / "records" / "committed"


def expand_home(path: str | os.PathLike[str]) -> Path:
    """A path with its leading ~ or ~NAME replaced by the home folder.

    Raises:
        BenchError: The home folder is unknown, and no file or folder has that name.
    """
    text = os.path.expanduser(path)
    if text.startswith("~") and not os.path.lexists(text):
        raise BenchError(
            f"'{text}' begins with ~, and no home folder is known for it. Write the whole path."
        )
    return Path(text)


def write_atomic(file: Path, content: bytes | Callable[[Path], None]) -> None:
    """Write a temporary file beside `file`, wait for the disk, and rename it.

    The temporary name begins with a dot and ends in ".tmp", so that no reader takes it for a
    record. If the process is killed, `remove_temporary` removes the temporary file.

    Args:
        file: File to write. Its folder is made if it does not exist.
        content: The content, or a function that writes it to a given path.

    Raises:
        OSError: The folder cannot be written or the disk is full; `file` is as it was.
    """
    partial = file.with_name(f".{_HOST}-{os.getpid()}-{_TOKEN}-{next(_COUNT)}.tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content)
        settle(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def settle(partial: Path, file: Path) -> None:
    """Rename a finished file once the disk holds all of it."""
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(partial, file)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of dead processes, in a folder and the folders below it.

    Files of another machine, whose processes are not known here, are removed after a day.
    """
    for where, _, names in os.walk(folder):
        for name in names:
            if name.startswith("."):
                with contextlib.suppress(OSError):  # another process removed it
                    _remove_if_dead(Path(where, name))


def _remove_if_dead(file: Path) -> None:
    match = _TEMPORARY.fullmatch(file.name) or _OLDER.fullmatch(file.name)
    if not match:
        return
    parts = match.groupdict()
    pid = int(parts["pid"] or parts["first"])
    is_ours = parts.get("host", _HOST) == _HOST
    is_other = pid == os.getpid() and parts.get("token") != _TOKEN  # had our number before us
    is_old = time.time() - file.lstat().st_mtime > _LONGEST_WRITE
    if is_old or (is_ours and (is_other or not _is_alive(pid))):
        file.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True
