"""Downloads that resume after an interruption and are verified by checksum."""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from shalabench.api import DataError
from shalabench.api.files import settle
from shalabench.datasets.sources.files import git_digest
from shalabench.datasets.sources.turns import take_turn

NO_CHECKSUM = ""  # none is published
_CHUNK = 1 << 20
_ROUNDS = 3  # over the mirrors, with a pause between
_PAUSE = 2.0  # seconds
_TIMEOUT = 30  # seconds without a byte
_QUIET = 5.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Remote:
    """A file on the network.

    Attributes:
        urls: Its mirrors, the first one preferred.
        name: Its path below the folder it is saved in.
        checksum: "md5:...", "sha256:..." or "git:..." (the id of the file in a git repository);
            `NO_CHECKSUM` where none is published, which the download then says.
    """

    urls: tuple[str, ...]
    name: str
    checksum: str


def download(remote: Remote, folder: Path) -> Path:
    """Fetch a file, resuming from `<name>.part` where an earlier attempt was cut off.

    A process that finds another at the same file waits for it.

    Args:
        remote: What to fetch.
        folder: Where to save it; nothing is fetched where it lies there already.

    Returns:
        The file's path.

    Raises:
        DataError: No mirror can be reached, all refuse, or one sends something else.
    """
    file = folder / remote.name
    if file.exists():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with take_turn(file) as alone:
            if not file.exists():  # another process may just have fetched it
                _fetch_into(remote, file, alone)
    except OSError as error:
        raise DataError(
            f"{file.parent} cannot be written ({error}). Choose another folder with --data-root or "
            "SHALA_DATA."
        ) from error
    return file


def _fetch_into(remote: Remote, file: Path, alone: bool) -> None:
    """Fetch a file that is not there; where others may do so too, without a part to resume."""
    partial = file.with_name(file.name + (".part" if alone else f".{os.getpid()}.part"))
    try:
        _fetch_from_any(remote, file, partial)
        _check(remote, partial)
        settle(partial, file)
    finally:
        if not alone:
            partial.unlink(missing_ok=True)


def _fetch_from_any(remote: Remote, file: Path, partial: Path) -> None:
    urls, reasons = list(remote.urls), {}
    for attempt in range(_ROUNDS):
        time.sleep(_PAUSE if attempt else 0)
        for url in tuple(urls):
            try:
                return _fetch(url, partial)
            except urllib.error.HTTPError as error:
                reasons[url] = f"{error.code} {error.reason}"
                if error.code < 500 and error.code != 429:  # asking again would not help
                    urls.remove(url)
            except urllib.error.URLError as error:
                reasons[url] = str(error.reason)
            except (OSError, http.client.HTTPException) as error:
                reasons[url] = str(error)
        if not urls:
            break
    failures = ", ".join(f"{url} ({reason})" for url, reason in reasons.items())
    resume = f" to go on from {partial.name}" if partial.exists() else ""
    raise DataError(
        f"{file.name} could not be fetched from {failures}. Run the command again{resume}, or save "
        f"the file as {file} by hand."
    )


def _fetch(url: str, partial: Path) -> None:
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if not done or error.code != 416:  # 416: there is nothing after the part
            raise
        if error.headers.get("Content-Range") == f"bytes */{done}":
            return
        partial.unlink()
        raise ConnectionError("the part fetched before is longer than the file") from error
    with response:
        resumed = response.status == 206
        done = done if resumed else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        with partial.open("ab" if resumed else "wb") as out:
            reported = time.monotonic()
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                if time.monotonic() - reported > _QUIET:
                    reported = time.monotonic()
                    _report(partial.stem, done, total)
    if done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _report(name: str, done: int, total: int) -> None:
    of = f" of {total / 1e6:,.0f}" if total >= done else ""
    print(f"{name}: {done / 1e6:,.0f}{of} MB", file=sys.stderr, flush=True)


def _check(remote: Remote, partial: Path) -> None:
    kind, _, expected = (remote.checksum or "sha256:").partition(":")
    if kind == "git":
        digest = git_digest(partial)
    else:
        with partial.open("rb") as content:
            digest = hashlib.file_digest(content, kind).hexdigest()
    if remote.checksum == NO_CHECKSUM:
        print(
            f"{remote.name}: no checksum is published, so that the download cannot be checked by "
            f"one; its SHA-256 is {digest}.",
            file=sys.stderr,
            flush=True,
        )
    elif digest != expected:
        partial.unlink()
        raise DataError(
            f"The download of {remote.name} has the {kind} digest {digest}, and {expected} was "
            "expected. It was deleted; run the command again, or save the file as "
            f"{partial.with_suffix('')} by hand."
        )
