"""Downloads that resume where they were cut off and are checked before they count."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.api import DataError

_CHUNK = 1 << 20
_TRIES = 3
_TIMEOUT = 30  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """A file to be had from the network.

    Attributes:
        url: Where it is.
        name: Its path below the folder it is saved in.
        checksum: "md5:..." or "sha256:..." of the file; empty where the publisher states none and
            its content is checked after reading instead.
    """

    url: str
    name: str
    checksum: str = ""


def download(
    remote: Remote, folder: Path, report: Callable[[int, int], None] = lambda done, total: None
) -> Path:
    """Fetch a file, resuming from `<name>.part` where an earlier attempt was cut off.

    Args:
        remote: What to fetch.
        folder: Where to save it; nothing is fetched where it lies there already.
        report: Called with (bytes so far, bytes in all or 0).

    Returns:
        The file's path.

    Raises:
        DataError: The host cannot be reached, refuses, or sends something else.
    """
    file = folder / remote.name
    if file.exists():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".part")
    for attempt in range(1, _TRIES + 1):
        try:
            _fetch(remote.url, partial, report)
            break
        except urllib.error.HTTPError as error:
            raise DataError(
                f"{remote.url} answered {error.code} ({error.reason}). Fetch the file by another "
                f"way and save it as {file}."
            ) from error
        except OSError as error:
            if attempt == _TRIES:
                raise DataError(
                    f"{remote.url} could not be fetched ({error}). Run the command again to go on "
                    f"from {partial}, or save the file as {file} by hand."
                ) from error
            time.sleep(attempt)
    _check(remote, partial)
    os.replace(partial, file)
    return file


def _fetch(url: str, partial: Path, report: Callable[[int, int], None]) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if done and error.code == 416:  # nothing is left to send: the part is the whole
            return
        raise
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        with partial.open("ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                report(done, total)
    if total and done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _check(remote: Remote, partial: Path) -> None:
    if not remote.checksum:
        return
    kind, expected = remote.checksum.split(":")
    with partial.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    if found != expected:
        partial.unlink()
        raise DataError(
            f"{remote.url} sent a file whose {kind} is {found}, and {expected} was expected. "
            "The file was dropped; run the command again, or fetch it from elsewhere."
        )
