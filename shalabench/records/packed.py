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
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shalabench.api.errors import BenchError
from shalabench.records.store import RunFolder, guard, regular, write_whole

if TYPE_CHECKING:
    from shalabench.records.store import Store

NAME = "records.jsonl.gz"
_CURVES = "curves.csv.gz"
VERSION = 1  # of this form and of what a record's schema asks for; others are checked when read
_PROGRESS_KEPT = 60  # readings of the losses a run
_QUALITY = 78  # of lossy WebP; see `_as_webp`
_PLACE = ("time", "kind", "stage", "step")
_NUMBERS = {int, float}
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
            return json.loads(self.lines[name])["content"]
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"The line of {name} does not read. Export it again.") from error

    def picture(self, name: str) -> Path | None:
        folder = self.path.parent / "pictures" / self.path.name
        return regular(folder / Path(name).with_suffix(".webp").name, self.path.parent)

    def text(self, name: str) -> str | None:
        return self._part("texts").get(Path(name).name)

    def events(self) -> Iterator[dict[str, Any]]:
        events = self._part("events")
        start = events[0].get("time", 0) if events else 0
        curves = _read_curves(self.path.parent / _CURVES).get(self.path.name, ())
        progress = [{**event, "time": round(start + event["time"], 3)} for event in curves]
        yield from sorted([*events, *progress], key=lambda event: event.get("time", 0))

    def state(self) -> str:
        return "done" if self.trained else "new"


def read_packed(file: Path) -> list[PackedRun]:
    """The runs of a packed file, among them those that do not read, with the reason.

    Args:
        file: Its records.jsonl.gz.
    """
    where = f"{file.parent.name}/{NAME}"
    try:
        raw, is_whole = _decompress(file.read_bytes())
    except OSError as error:
        return [_lost(file, f"{where} does not read ({error.strerror}).")]
    first, _, rest = raw.partition(b"\n")
    head = _read_line(first) or {}
    digest = hashlib.sha256(rest).hexdigest()
    is_checked = is_whole and (head.get("packed"), head.get("digest")) == (VERSION, digest)
    runs: list[PackedRun] = []
    lines: dict[str, bytes] = {}
    for number, line in enumerate(rest[: rest.rfind(b"\n") + 1].splitlines(), 2):
        if line.startswith(_RESULT):
            lines[line[len(_RESULT) : line.find(b'"', len(_RESULT))].decode()] = line
        elif content := _read_line(line):
            lines = {}
            trusted = is_checked and content["name"] not in head["unchecked"]
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
    raw, is_whole = _decompress(file.read_bytes())
    first, _, rest = raw.partition(b"\n")
    head = _read_line(first)
    if not is_whole or head is None:
        return False
    stated = head.get("digest")
    return None if stated is None else hashlib.sha256(rest).hexdigest() == stated


def _lost(path: Path, reason: str) -> PackedRun:
    return PackedRun(path, content=f"{reason} Export it again.")


def _decompress(packed: bytes) -> tuple[bytes, bool]:
    """The readable part of a gzip file, and whether that is all."""
    stream = zlib.decompressobj(wbits=31)
    parts = []
    try:
        for start in range(0, len(packed), 1 << 16):  # damage costs only what follows
            parts.append(stream.decompress(packed[start : start + (1 << 16)]))
    except zlib.error:
        return b"".join(parts), False
    return b"".join(parts), stream.eof


def _read_line(line: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(line)
    except ValueError:
        return None
    fits = isinstance(content, dict) and ("packed" in content or content.keys() >= _PARTS)
    return content if fits else None


@cache
def _read_curves(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The progress events of each run, with the seconds since its start as their time."""
    progress: dict[str, dict[tuple, dict[str, Any]]] = {}
    if not file.is_file():
        return {}
    raw, _ = _decompress(file.read_bytes())
    for row in csv.DictReader(io.StringIO(raw.decode(errors="replace"))):
        try:
            key = row["stage"], int(row["step"]), float(row["seconds"])
            value = float(row["value"])
        except (TypeError, ValueError):  # a line that was cut short
            continue
        stage, step, seconds = key
        event = {"time": seconds, "kind": "progress", "stage": stage, "step": step}
        progress.setdefault(row["run"], {}).setdefault(key, event)[row["term"]] = value
    return {run: list(events.values()) for run, events in progress.items()}


def export(store: Store, destination: Path) -> int:
    """Pack the records of finished runs, without weights and checkpoints.

    Names of files in texts are written relative to the store.

    Args:
        store: What is packed.
        destination: Made where missing. Of a training that lies there already, only what is missing
            is added.

    Returns:
        Number of runs copied.

    Raises:
        BenchError: The destination is this store, or holds another training of a run or a packed
            file that does not read, or a record has another schema; nothing was copied. Or it
            cannot be written.
    """
    if destination.resolve() == store.root.resolve():
        raise BenchError(
            f"{destination} is the store that is exported. Name another folder for the copies."
        )
    roots = [f"{root}/" for root in (store.root.absolute(), store.root)]
    packs: dict[Path, dict[str, dict[str, Any]]] = {}
    targets = []
    for folder in (folder for folder in store.runs() if folder.trained is not None):
        new = _content(folder)
        pack = destination / f"{new['run']['dataset']}-{new['run']['preset']}"
        targets.append((pack, folder))
        if pack not in packs:
            packs[pack] = {old.path.name: _content(old) for old in _read_whole(pack)}
        old = packs[pack].get(folder.path.name)
        if old and old["trained"].get("digest") != new["trained"].get("digest"):
            raise BenchError(
                f"{pack} holds another training of the run {folder.path.name}, with other weights, "
                "and records of two are never mixed. Nothing was copied. Export to another "
                "folder, or move that one away."
            )
        if old:
            added = {p: dict(sorted({**new[p], **old[p]}.items())) for p in ("results", "texts")}
            new = old | added | {"events": new["events"]}
        packs[pack][folder.path.name] = new | {"events": _without(roots, new["events"])}
    with guard(destination, "DESTINATION"):
        for pack, runs in packs.items():
            _write(pack, dict(sorted(runs.items())))
        for pack, folder in targets:
            _write_pictures(folder, pack / "pictures" / folder.path.name)
    return len(targets)


def _read_whole(pack: Path) -> list[PackedRun]:
    """The runs of a packed folder, all of which read; none where there is no such folder yet.

    Raises:
        BenchError: One does not read, and writing the file anew would lose it.
    """
    file = pack / NAME
    runs = read_packed(file) if file.is_file() else []
    for run in runs:
        if isinstance(run.content, str):
            raise BenchError(f"{run.content} Nothing was copied to {pack}: move that file away.")
    return runs


def _content(folder: RunFolder) -> dict[str, Any]:
    """A run's line."""
    results = {name: folder.result(name) for name in folder.result_names()}
    names = [name for result in results.values() for name in result.get("texts") or ()]
    texts = {Path(name).name: folder.text(name) for name in names}
    return {
        "name": folder.path.name,
        "run": folder.run,
        "trained": folder.trained,
        "results": results,
        "events": list(folder.events()),
        "texts": {name: text for name, text in texts.items() if text is not None},
    }


def _without(roots: Iterable[str], content: Any) -> Any:
    text = json.dumps(content)
    for root in roots:
        text = text.replace(root, "")
    return json.loads(text)


def _write(pack: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Write the two files of a packed folder, the same bytes for the same records."""
    lines, curves, unchecked = [], [("run", "stage", "step", "seconds", "term", "value")], []
    for name, content in runs.items():
        events = content["events"]
        others = [e for e in events if e["kind"] not in ("progress", "checkpoint")]
        start = others[0].get("time", 0) if others else 0
        for event in _thin([e for e in events if e["kind"] == "progress"]):
            where = name, event["stage"], event["step"], round(event["time"] - start, 1)
            terms = {k: v for k, v in event.items() if k not in _PLACE and type(v) in _NUMBERS}
            curves += [(*where, term, f"{value:.6g}") for term, value in terms.items()]
        content, fits = _checked(content | {"events": others})
        unchecked += [] if fits else [name]
        results = content.pop("results")
        lines += [content, *({"result": key, "content": r} for key, r in results.items())]
    dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    body = "".join(f"{dump(line)}\n" for line in lines).encode()
    digest = hashlib.sha256(body).hexdigest()
    head = {"packed": VERSION, "runs": len(runs), "digest": digest, "unchecked": unchecked}
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(curves)
    for file, text in (
        (_CURVES, table.getvalue().encode()),
        (NAME, json.dumps(head).encode() + b"\n" + body),
    ):
        write_whole(pack / file, gzip.compress(text, mtime=0), "DESTINATION")


def _checked(content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """A line with today's names, and whether all of it is as the schema says."""
    from shalabench.records import schema

    try:
        results = {name: schema.read("result", r, name) for name, r in content["results"].items()}
        run = schema.read("run", content["run"], "run.json")
        trained = schema.read("trained", content["trained"], "trained.json")
    except schema.SchemaError:
        return content, False
    return content | {"run": run, "trained": trained, "results": results}, True


def _thin(progress: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some readings of the losses, and the last."""
    fit = [
        e
        for e in progress
        if isinstance(e.get("stage"), str)
        and {type(e.get("step")), type(e.get("time"))} <= _NUMBERS
    ]
    spread = fit[:: max(1, len(fit) // _PROGRESS_KEPT)]
    return spread if spread[-1:] == fit[-1:] else [*spread, fit[-1]]


def _write_pictures(folder: RunFolder, target: Path) -> None:
    """Add the pictures of a run that are missing."""
    results = (folder.result(name) for name in folder.result_names())
    for name in (name for result in results for name in result.get("pictures") or ()):
        file, copy = folder.picture(name), target / Path(name).with_suffix(".webp").name
        if file and not copy.exists():
            content = file.read_bytes() if file.suffix == ".webp" else _as_webp(file)
            write_whole(copy, content, "DESTINATION")


def _as_webp(file: Path) -> bytes:
    """A picture as WebP: without loss, or with an invisible loss where that is smaller."""
    from PIL import Image

    encoded = []
    with Image.open(file) as picture:
        for options in ({"lossless": True}, {"quality": _QUALITY, "use_sharp_yuv": True}):
            out = io.BytesIO()
            picture.convert("RGB").save(out, "WEBP", **options)
            encoded.append(out.getvalue())
    return min(encoded, key=len)
