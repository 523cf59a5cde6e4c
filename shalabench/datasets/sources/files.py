"""Content digests, errors of damaged files, and the cache of generated data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from shalabench.api import BenchError, DataError, Dataset, Modality, Split
from shalabench.api.files import NO_HOME, write_atomic

SPLITS = ("train", "validation", "test")
SOURCE = "source-"  # begins the names of arrays that say what views come from; not in digests
NOTE = "note-"  # begins the names of arrays that say how the data were read; not in digests
Arrays = dict[str, np.ndarray]
T = TypeVar("T")


def digest_of(arrays: Iterable[np.ndarray]) -> str:
    """SHA-256 over the content of arrays, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def digest_with(content: str, **settings: object) -> str:
    """A content digest combined with settings that change a likelihood but no array."""
    return hashlib.sha256(f"{content} {sorted(settings.items())}".encode()).hexdigest()


def git_digest(file: Path) -> str:
    """The id that git gives a file of this content."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file, which identify it without reading it."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@contextmanager
def as_data_error(problem: str, remedy: str) -> Iterator[None]:
    """Turn whatever libraries raise on damaged or hostile files into a `DataError`.

    Raises:
        DataError: "PROBLEM (REASON). REMEDY"; one raised within passes as it is.
    """
    try:
        yield
    except BenchError:
        raise
    except MemoryError as error:
        raise DataError(f"{problem} (it asks for more memory than there is). {remedy}") from error
    except Exception as error:  # each library has its own kinds, many of no common base
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(f"{problem} ({reason}). {remedy}") from error


def read_lines(file: Path, remedy: str = "Restore it from the archive.") -> list[str]:
    """The lines of a text in UTF-8 that are not blank, without blanks at their ends.

    Raises:
        DataError: It cannot be read; the message ends with the remedy.
    """
    with as_data_error(f"{file} cannot be read", remedy):
        text = file.read_bytes().decode("utf-8-sig")
    return [line.strip() for line in split_lines(text) if line.strip()]


def split_lines(text: str) -> list[str]:
    r"""Split at \n, \r\n and \r only; `str.splitlines` splits at nine other characters too."""
    return re.split(r"\r\n|\n|\r", text)


def with_ending(folder: Path, ending: str) -> list[Path]:
    """The files of a folder that end so, such as ".png", in capital letters too; sorted.

    Hidden ones are left out: macOS leaves a "._name" beside each file.
    """
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(f for f in found if f.suffix.lower() == ending and not f.name.startswith("."))


def either_case(file: Path) -> Path:
    """A file, or the one whose ending has capital letters where only that is there."""
    other = file.with_suffix(file.suffix.upper())
    return other if other.is_file() and not file.is_file() else file


def write_cached(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file of the cache whole or not at all.

    Raises:
        DataError: The folder cannot be written.
    """

    def fill(partial: Path) -> None:
        with partial.open("wb") as out:
            write(out)

    if NO_HOME in file.parents:
        raise DataError(
            "There is no home directory to keep generated data in. Name a folder with --cache-dir "
            "or SHALA_CACHE."
        )
    try:
        write_atomic(file, fill)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written ({error}). Free some room, or choose another folder with "
            "--cache-dir or SHALA_CACHE."
        ) from error


def read_cached(path: Path, read: Callable[[Path], T]) -> T:
    """Read a file or folder of the cache.

    Raises:
        DataError: The content is damaged.
    """
    with as_data_error(f"The prepared data in {path} are damaged", f"Delete {path} and run again."):
        return read(path)


def same_content(arrays: Iterable[np.ndarray], digest: str) -> None:
    """Raise a ValueError if arrays of the cache have another digest than when they were written."""
    if (actual := digest_of(arrays)) != digest:
        raise ValueError(f"their SHA-256 is {actual[:12]} and was {digest[:12]}")


def cache_file(dataset: Dataset, cache: Path, exclude: Collection[str] = ()) -> Path:
    """The file of a generated dataset, named after its version and settings.

    Args:
        dataset: Whose data it holds.
        cache: The folder of generated data.
        exclude: Settings that do not change the arrays.
    """
    settings = dataset.config.model_dump_json(exclude=set(exclude))
    key = hashlib.sha256(f"{dataset.version}{settings}".encode()).hexdigest()
    return cache / f"{dataset.name}-{key[:16]}.npz"


def generate_once(
    file: Path, make: Callable[[], dict[str, Arrays]], sources: Collection[str] = ()
) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Generate the arrays of all splits on the first call; read them from `file` afterwards.

    Args:
        file: An .npz file of the cache.
        make: Returns the arrays by split and name.
        sources: Names of arrays that older files lack; these are made again.

    Returns:
        Tensors by split and name, and the digest of their content without sources and notes.

    Raises:
        DataError: The file is damaged or cannot be written.
    """
    if file.exists():
        found = read_cached(file, _read_splits)
        if set(sources) <= found[0]["test"].keys():
            return found
        del found  # of an older release
    _write_splits(file, make())
    return read_cached(file, _read_splits)


def make_splits(
    arrays: Mapping[str, Mapping[str, Tensor]],
    modalities: Iterable[Modality],
    facts: Iterable[str] = (),
) -> dict[Any, Split]:
    """The splits of generated data, with their labels and sources where they have any.

    Args:
        arrays: By split and name, as `generate_once` gives them.
        modalities: Whose views they hold.
        facts: Names of the arrays that are facts.
    """
    return {
        split: Split(
            {m.name: own[m.name] for m in modalities},
            own.get("labels"),
            facts={name: own[name] for name in facts},
            shared={n.removeprefix(SOURCE): x for n, x in own.items() if n.startswith(SOURCE)},
        )
        for split, own in arrays.items()
    }


def _write_splits(file: Path, parts: dict[str, Arrays]) -> None:
    made: dict[str, Any] = {
        f"{split}_{n}": a for split, own in parts.items() for n, a in own.items()
    }
    apart = tuple(f"{split}_{start}" for split in parts for start in (SOURCE, NOTE))
    printed = sorted(name for name in made if not name.startswith(apart))
    fingerprint = np.array(digest_of(made[name] for name in printed))
    write_cached(file, lambda out: np.savez(out, **made, fingerprint=fingerprint))


def _read_splits(file: Path) -> tuple[dict[str, dict[str, Tensor]], str]:
    splits: dict[str, dict[str, Tensor]] = {split: {} for split in SPLITS}
    with np.load(file, allow_pickle=False) as content:
        for key in content:
            split, _, name = key.partition("_")
            if name:
                splits[split][name] = torch.from_numpy(content[key])
        return splits, str(content["fingerprint"])
