"""The store: plain files, one folder per run, each file written whole or not at all. Free of torch.

<store>/<model>-<dataset>-<preset>-s<seed>-<train id>/
    run.json            what is run, written once
    events.jsonl        what happened, appended
    checkpoints/        the two newest
    forks/              checkpoints from which trainings of more updates go on
    weights.pt          the trained model
    trained.json        how training ended, with its provenance
    failed.json         why training failed
    results/            one JSON an evaluation
    failures/           one JSON an evaluation that failed
    partial/            features of an evaluation that was cut off
    pictures/           WebP
    texts/              plain text

A folder of exported runs is packed (`shalabench.records.packed`); `Store.runs` reads both forms.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError
from shalabench.api.files import remove_temporary, write_atomic
from shalabench.records.digests import FIELD, checkpoint_name, is_sealed, seal
from shalabench.records.reading import (
    files_in,
    parse_json,
    printable,
    regular,
    unreadable,
)

LETTERS = 10  # of an identity in a name
_HOLDS_RUNS = ("run.json", "records.jsonl.gz")
_CHECKPOINTS_KEPT = 2


class StoreError(BenchError):
    """The store cannot be written; what was recorded before stays."""

    exit_code = 1


@dataclass(frozen=True)
class RunFolder:
    """One run's folder. Reading needs no torch.

    Attributes:
        path: The folder.
        is_checked: Whether its records were checked against today's schema when they were packed.
    """

    path: Path
    is_checked: bool = False

    def has_description(self) -> bool:
        """Whether the run is described, by a file that may be damaged."""
        return (self.path / "run.json").exists()

    @property
    def name(self) -> str:
        """The folder's name; bytes that are no UTF-8 are escaped, so that it prints."""
        return printable(self.path.name)

    @property
    def run(self) -> dict[str, Any]:
        """Identity, labels and settings of the run."""
        return read_json(self.path / "run.json")

    @property
    def trained(self) -> dict[str, Any] | None:
        """How training ended, or None where it has not."""
        return _read_if_there(self.path / "trained.json")

    @property
    def failed(self) -> dict[str, Any] | None:
        """Why the last attempt failed, or None."""
        return _read_if_there(self.path / "failed.json")

    @property
    def weights(self) -> Path:
        """The trained model's file, which need not exist."""
        return self.path / "weights.pt"

    def results(self) -> list[dict[str, Any]]:
        """Every evaluation's record, in the order of their file names."""
        return [self.result(name) for name in self.result_names()]

    def result_names(self, metric: str = "") -> list[str]:
        """The files of the evaluations, in order.

        Args:
            metric: Packed runs leave out files without a score whose name begins so.
        """
        return [file.name for file in files_in(self.path / "results", ".json")]

    def result(self, name: str) -> dict[str, Any]:
        """One evaluation's record."""
        return read_json(self.path / "results" / name)

    def has_result(self, evaluation: str) -> bool:
        """Whether an evaluation of that identity is recorded."""
        ending = f"-{evaluation[:LETTERS]}.json"
        return any(name.endswith(ending) for name in self.result_names())

    def failures(self) -> dict[str, dict[str, Any]]:
        """By file name, the evaluations that failed and were not recorded since."""
        found = {}
        for file in files_in(self.path / "failures", ".json"):
            with contextlib.suppress(BenchError):  # a damaged one is as none: it is tried again
                found[file.name] = read_json(file)
        return found

    def unmeasured(self) -> str:
        """Why evaluations failed that were not recorded since, in sentences; empty where none."""
        failures = self.failures().values()
        return " ".join(f"{f.get('evaluator')} failed: {f.get('reason')}" for f in failures)

    def picture(self, name: str) -> Path | None:
        """The file of a picture that a result names, or None where it is not kept."""
        return regular(self.path / "pictures" / Path(name).name, self.path)

    def text(self, name: str) -> str | None:
        """A text that a result names, or None where it is not kept."""
        file = regular(self.path / "texts" / Path(name).name, self.path)
        try:
            return file.read_text(encoding="utf-8", errors="replace") if file else None
        except OSError:
            return None

    def events(self) -> Iterator[dict[str, Any]]:
        """What happened, oldest first. Lines that are no events are skipped.

        Raises:
            BenchError: The file is there and cannot be read.
        """
        file = self.path / "events.jsonl"
        try:
            content = file.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise unreadable(file, error) from error
        for line in content.splitlines():
            with contextlib.suppress(ValueError):  # no text, no JSON
                event = parse_json(line)
                if isinstance(event, dict) and isinstance(event.get("kind"), str):
                    yield event

    def log(self, kind: str, **facts: Any) -> None:
        """Append one event."""
        line = json.dumps({"time": round(time.time(), 3), "kind": kind, **facts})
        file = self.path / "events.jsonl"
        with guard(file), file.open("a+b") as out:
            # A crash may have left half a line, which must not swallow this one.
            is_whole = out.tell() == 0
            if not is_whole:
                out.seek(-1, os.SEEK_END)
                is_whole = out.read(1) == b"\n"
            out.write((b"" if is_whole else b"\n") + line.encode() + b"\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file of the folder with its digest, whole or not at all."""
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_whole(self.path / name, seal(text.encode()))

    def clear_failure(self) -> None:
        """Forget an earlier attempt's failure; its events stay."""
        (self.path / "failed.json").unlink(missing_ok=True)

    def checkpoints(self) -> list[Path]:
        """Checkpoints, newest first."""
        found = files_in(self.path / "checkpoints", ".pt")
        return [file for file in reversed(found) if file.is_file()]

    def write_checkpoint(self, stage: int, step: int, content: bytes) -> None:
        """Write a checkpoint and drop those before the last two."""
        write_whole(self.path / "checkpoints" / checkpoint_name(stage, step, content), content)
        for old in self.checkpoints()[_CHECKPOINTS_KEPT:]:
            old.unlink()

    def forks(self) -> list[Path]:
        """Checkpoints from which trainings of more updates go on, one a stage at most."""
        return files_in(self.path / "forks", ".pt")

    def write_fork(self, stage: int, step: int, content: bytes) -> None:
        """Write a checkpoint that stays."""
        write_whole(self.path / "forks" / checkpoint_name(stage, step, content), content)

    def drop_checkpoints(self) -> None:
        """Remove the checkpoints of a finished training."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, *, wait: bool, locks: bool = True) -> Iterator[bool]:
        """Hold the run. The kernel releases it when the process dies.

        Temporary files that dead processes left in the folder are removed.

        Args:
            wait: Whether to wait for another process that holds it.
            locks: False on a file system without locks, where nobody else may use the store.

        Yields:
            Whether it is held; False only where another process holds it and `wait` is False.

        Raises:
            BenchError: The file system has no locks.
        """
        with guard(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = (self.path / "lock").open("a+")
        with handle:
            try:
                if locks:
                    fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise BenchError(
                    f"The file system of {self.path} has no file locks ({error.strerror}), which "
                    "keep two processes from working on one run. Choose a --store on another file "
                    "system or, if no other process uses this one, add --no-locks."
                ) from error
            remove_temporary(self.path)
            yield True

    def state(self) -> str:
        """In a word: done, diverged, failed, skipped, running, stopped, or new."""
        if self.trained is not None:
            return "done"
        if (failure := self.failed) is not None:
            return failure["status"]
        if self._is_held():
            return "running"
        return "stopped" if any(self.events()) else "new"

    def _is_held(self) -> bool:
        try:
            with (self.path / "lock").open("rb") as handle:  # for reading: it may be another's
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no such file, or a file system without locks
            return False
        return False


@dataclass(frozen=True)
class Store:
    """All runs below one folder.

    Attributes:
        root: The folder; need not exist.
        is_reference: Whether its runs are rows of their own beside those of other stores.
    """

    root: Path
    is_reference: bool = False

    def folder(self, model: str, dataset: str, preset: str, seed: int, training: str) -> RunFolder:
        """The folder of a run, which need not exist; its packed record, if only that exists."""
        path = self.root / f"{model}-{dataset}-{preset}-s{seed}-{training[:LETTERS]}"
        packed = [] if path.exists() else self._packed()
        return next((run for run in packed if run.path.name == path.name), RunFolder(path))

    def has_runs(self) -> bool:
        """Whether there is any run, which is known without reading one."""
        return bool(_files(self.root))

    def runs(self) -> list[RunFolder]:
        """Every run below the root, at any depth, packed or in a folder of its own.

        Hidden folders are passed over. A folder that cannot be listed is a run that does not read.
        """
        from shalabench.records.packed import NAME, read_packed

        runs: list[RunFolder] = []
        for file in _files(self.root):
            runs += read_packed(file) if file.name == NAME else [RunFolder(file.parent)]
        return runs

    def _packed(self) -> Iterator[RunFolder]:
        from shalabench.records.packed import NAME, read_packed

        for file in _files(self.root):
            if file.name == NAME and file.parent.parent == self.root:
                yield from read_packed(file)

    def export(self, destination: Path, **how: Callable[[Any], Any]) -> int:
        """Pack the records of finished runs into another folder; see `records.export.export`."""
        from shalabench.records.export import export

        return export(self, destination, **how)


def _files(root: Path) -> list[Path]:
    """The files that hold runs, below a folder, or folders in their place."""
    found: list[Path] = []

    def keep(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # it has vanished
            found.append(Path(error.filename) / "run.json")  # which does not read either

    for where, folders, files in os.walk(root, onerror=keep):
        found += [Path(where, name) for name in (*folders, *files) if name in _HOLDS_RUNS]
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found)


def write_whole(file: Path, content: bytes, named: str = "--store") -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one.

    Args:
        file: Its folder is made where missing.
        content: Of the file.
        named: As in `guard`.

    Raises:
        BenchError: As in `guard`.
    """
    with guard(file, named):
        write_atomic(file, content)


@contextlib.contextmanager
def guard(path: Path, named: str = "--store") -> Iterator[None]:
    """Raise a readable error if a file or folder cannot be written.

    Args:
        path: The file or folder.
        named: What chooses it on the command line: "--store", "--out", "OUT".

    Raises:
        StoreError: The store cannot be written, or the disk is full.
        BenchError: The same of another path.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "Free some room" if full else f"Make it writable, or choose another {named}"
        kind = StoreError if named == "--store" else BenchError
        raise kind(
            f"{path} cannot be written ({error.strerror}). What was recorded before is kept. "
            f"{cure}, and run the same command again to go on."
        ) from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, without its digest.

    Raises:
        BenchError: The file cannot be read, holds no JSON object, or has another digest than it
            states.
    """
    try:
        raw = file.read_bytes()
        sealed = is_sealed(raw)
        content = parse_json(raw)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} where an object is expected")
        if sealed:
            del content[FIELD]
        return content
    except (OSError, ValueError) as error:  # no file, no text, no JSON
        raise unreadable(file, error) from error


def _read_if_there(file: Path) -> dict[str, Any] | None:
    try:
        return read_json(file)
    except BenchError as error:
        if isinstance(error.__cause__, FileNotFoundError) and not file.is_symlink():
            return None
        raise
