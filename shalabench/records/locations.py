"""Default folders of records and data, in a clone and in an installed package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shalabench.api.errors import BenchError, unknown
from shalabench.api.files import NO_HOME, clone, committed, expand_home
from shalabench.records.store import RunFolder, Store

CONFIG = "config.json"  # of a folder of weights
DATA_ROOT = Path("shala-data")  # unless SHALA_DATA or --data-root names another


def default_cache() -> Path:
    """Where generated data are kept unless SHALA_CACHE or --cache-dir names another folder.

    Where there is no home directory, it is a place that cannot be written (`NO_HOME`).
    """
    try:
        return Path.home() / ".cache" / "shala-bench"
    except RuntimeError:  # neither HOME nor an account
        return NO_HOME


def default_store(name: str = "runs") -> Path:
    """Where new runs are recorded by default: in `results` of the clone or of the current folder.

    Args:
        name: Of the folder within `results`.
    """
    return (clone() or Path()) / "results" / name


def default_stores(*more: str) -> list[Path]:
    """What is read by default: the runs made here or, before any, the reference records.

    Args:
        more: Other committed folders to read with the reference records, such as "ablations".
    """
    runs = default_store()
    if Store(runs).has_runs():
        return [runs]
    return packaged_stores(*more)


def packaged_stores(*more: str) -> list[Path]:
    """The folders of the reference records, and of other committed ones by name."""
    return [committed() / name for name in ("reference", *more)]


def find_run(run: str | Path, others: Iterable[str] = ()) -> RunFolder:
    """The folder of a run, or the run of that name in the default store.

    Args:
        run: A path or a name.
        others: Names that the caller knows, for the message.

    Raises:
        BenchError: There is none.
    """
    folder = RunFolder(expand_home(run))
    if (folder.path / "run.json").is_file():
        return folder
    known = {folder.path.name: folder for folder in Store(default_store()).runs()}
    if str(run) not in known:
        raise BenchError(unknown("run", str(run), [*known, *others]))
    return known[str(run)]


def packaged_weights() -> dict[str, Path]:
    """The folders of the weights that are part of the project, by name."""
    return {file.parent.name: file.parent for file in committed().glob(f"weights/*/{CONFIG}")}


def find_weights(source: str | Path) -> Path | None:
    """The folder of weights at a path, or of packaged ones of that name; None if there is none."""
    path = expand_home(source)
    if path.is_dir() and ((path / CONFIG).is_file() or (path / "run.json").is_file()):
        return path if (path / CONFIG).is_file() else None
    return packaged_weights().get(str(source))
