"""Exported records, packed: three kinds of files for each dataset and preset.

<destination>/<dataset>-<preset>/
    records.jsonl.gz    JSON lines: a header, then for each run its line (run, trained, events,
                        texts) and a line for each of its results
    curves.csv.gz       the progress of training: run, stage, step, seconds, term, value
    pictures/<run>/     WebP

The header has the digest of the other lines, which were checked when they were written; a file with
that digest is not checked again. It names the runs that did not pass. Of a file that was cut short,
the lines that read are used.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError
from shalabench.records.digests import digest_of
from shalabench.records.reading import parse_json, printable, regular
from shalabench.records.store import RunFolder

NAME = "records.jsonl.gz"
CURVES = "curves.csv.gz"
VERSION = 1  # of this form and of what a record's schema asks for; others are checked when read
_PARTS = {"name", "run", "trained", "events", "texts"}  # of a run's line
_RESULT = b'{"result":"'  # how a result's line begins, before its file name


@dataclass(frozen=True)
class PackedRun(RunFolder):
    """One run of a packed file, read as a run's folder is.

    Attributes:
        path: The packed folder and the run's name; nothing lies there.
        content: The run's line, or what is wrong with it in a sentence.
        lines: Of its results, by file name; each is read when it is asked for.
    """

    content: dict[str, Any] | str = field(default="", repr=False)
    lines: dict[str, bytes] = field(default_factory=dict, repr=False)

    def _part(self, name: str) -> Any:
        if isinstance(self.content, str):
            raise BenchError(self.content)
        return self.content[name]

    @property
    def run(self) -> dict[str, Any]:
        return self._part("run")

    @property
    def trained(self) -> dict[str, Any] | None:
        return self._part("trained")

    @property
    def failed(self) -> None:
        """Only runs that are trained are exported."""

    def result_names(self, metric: str = "") -> list[str]:
        mark = f'"metric":"{metric}'.encode() if metric and self.is_checked else b""
        return [name for name, line in self.lines.items() if mark in line]

    def result(self, name: str) -> dict[str, Any]:
        try:
            content = parse_json(self.lines[name], is_checked=self.is_checked)["content"]
            if isinstance(content, dict):
                return content
        except (ValueError, KeyError, TypeError):
            pass
        raise BenchError(f"The line of {name} does not read. Export it again.")

    def picture(self, name: str) -> Path | None:
        folder = self.path.parent / "pictures" / self.path.name
        return regular(folder / f"{Path(name).stem}.webp", self.path.parent)

    def text(self, name: str) -> str | None:
        return self._part("texts").get(Path(name).name)

    def events(self) -> Iterator[dict[str, Any]]:
        events = self._part("events")
        start = time_of(events[0]) if events else 0
        curves = _read_curves(self.path.parent / CURVES).get(self.path.name, ())
        progress = [{**event, "time": round(start + event["time"], 3)} for event in curves]
        yield from sorted([*events, *progress], key=time_of)

    def state(self) -> str:
        return "done" if self.trained else "new"


def read_packed(file: Path) -> list[PackedRun]:
    """The runs of a packed file, among them those that do not read, with the reason.

    Args:
        file: Its records.jsonl.gz.
    """
    where = printable(f"{file.parent.name}/{NAME}")
    try:
        raw, is_whole = decompress(file.read_bytes())
    except OSError as error:
        return [_lost(file, f"{where} does not read ({error.strerror}).")]
    first, _, rest = raw.partition(b"\n")
    head = _read_line(first) or {}
    digest = digest_of(rest)
    is_checked = is_whole and (head.get("packed"), head.get("digest")) == (VERSION, digest)
    unchecked = head.get("unchecked")
    is_checked = is_checked and isinstance(unchecked, list)
    runs: list[PackedRun] = []
    lines: dict[str, bytes] = {}
    for number, line in enumerate(rest[: rest.rfind(b"\n") + 1].splitlines(), 2):
        if line.startswith(_RESULT):
            name = line[len(_RESULT) : line.find(b'"', len(_RESULT))]
            lines[name.decode(errors="replace")] = line
        elif (content := _read_line(line, is_checked=is_checked)) and "packed" not in content:
            lines = {}
            trusted = is_checked and content["name"] not in (unchecked or ())
            runs.append(PackedRun(file.parent / content["name"], trusted, content, lines))
        else:
            lines = {}  # those that follow are of the run that is lost
            at = file.with_name(f"{NAME} line {number}")
            runs.append(_lost(at, f"Line {number} of {where} does not read."))
    if not is_whole or "packed" not in head:
        runs = [run for run in runs if isinstance(run.content, dict)]
        count = f"{len(runs)} of {head.get('runs', 'its')} runs"
        runs.append(_lost(file, f"{where} is cut short: {count} are read."))
    return runs


@cache
def is_as_written(file: Path) -> bool | None:
    """Whether a packed file has the digest that its header states; None if it states none."""
    raw, is_whole = decompress(file.read_bytes())
    first, _, rest = raw.partition(b"\n")
    head = _read_line(first)
    if not is_whole or head is None:
        return False
    stated = head.get("digest")
    return None if stated is None else digest_of(rest) == stated


def _lost(path: Path, reason: str) -> PackedRun:
    return PackedRun(path, content=f"{reason} Export it again.")


def decompress(packed: bytes) -> tuple[bytes, bool]:
    """The readable part of a gzip file, and whether that is all."""
    stream = zlib.decompressobj(wbits=31)
    parts = []
    try:
        for start in range(0, len(packed), 1 << 16):  # damage costs only what follows
            parts.append(stream.decompress(packed[start : start + (1 << 16)]))
    except zlib.error:
        return b"".join(parts), False
    return b"".join(parts), stream.eof


def _read_line(line: bytes, *, is_checked: bool = False) -> dict[str, Any] | None:
    """The header or a run's line; None where it is neither."""
    try:
        content = parse_json(line, is_checked=is_checked)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    return content if "packed" in content or _is_run(content) else None


def _is_run(content: dict[str, Any]) -> bool:
    """Whether a run's line has its parts, each of the kind that others rely on."""
    if not content.keys() >= _PARTS or not is_name(content["name"]):
        return False
    events = content["events"]
    return (
        isinstance(content["run"], dict)
        and isinstance(content["trained"], dict | None)
        and isinstance(content["texts"], dict)
        and isinstance(events, list)
        and all(isinstance(e, dict) and isinstance(e.get("kind"), str) for e in events)
    )


def is_name(text: Any) -> bool:
    """Whether a text names a file or a folder within another one."""
    return isinstance(text, str) and text not in ("", ".", "..") and not {"/", "\0"} & {*text}


def time_of(event: dict[str, Any]) -> float:
    """When an event happened; 0 where it does not say."""
    time = event.get("time")
    return time if isinstance(time, int | float) else 0


@cache
def _read_curves(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The progress events of each run, with the seconds since its start as their time."""
    progress: dict[str, dict[tuple, dict[str, Any]]] = {}
    try:
        raw, _ = decompress(file.read_bytes())
    except OSError:
        return {}
    rows = csv.DictReader(io.StringIO(raw.decode(errors="replace")))
    while True:
        try:
            row = next(rows)
            key = row["stage"], int(row["step"]), float(row["seconds"])
            name, term, value = row["run"], row["term"], float(row["value"])
        except StopIteration:
            break
        except (TypeError, ValueError, KeyError, csv.Error):  # a line that was cut short
            continue
        stage, step, seconds = key
        event = {"time": seconds, "kind": "progress", "stage": stage, "step": step}
        progress.setdefault(name, {}).setdefault(key, event)[term] = value
    return {run: list(events.values()) for run, events in progress.items()}
