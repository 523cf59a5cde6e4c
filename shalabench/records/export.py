"""Export: the records of finished runs, packed (`shalabench.records.packed`)."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shalabench.api.errors import BenchError
from shalabench.api.files import remove_temporary
from shalabench.records.digests import digest_of
from shalabench.records.packed import (
    CURVES,
    NAME,
    VERSION,
    decompress,
    is_name,
    read_packed,
    time_of,
)
from shalabench.records.reading import DAMAGED, printable, terms_of
from shalabench.records.store import RunFolder, guard, write_whole

if TYPE_CHECKING:
    from shalabench.records.store import Store

_PROGRESS_KEPT = 60  # readings of the losses a run
_QUALITY = 78  # of lossy WebP; see `_as_webp`
_NUMBERS = {int, float}
_NO_PICTURE = (OSError, ValueError, SyntaxError, TypeError, LookupError)  # as Pillow says it

Runs = dict[str, dict[str, Any]]  # lines by the name of the run


class LeftOut(BenchError):
    """Something of the store does not read; the rest was exported."""

    exit_code = 1


def export(
    store: Store,
    destination: Path,
    say: Callable[[str], None] = lambda text: None,
    choose: Callable[[dict[str, Any]], bool] = lambda run: True,
) -> int:
    """Pack the records of finished runs, without weights and checkpoints.

    Names of files in texts are written relative to the store. Files of the destination that are
    cut short are written anew; their readable runs are kept, and the damaged file beside them.

    Args:
        store: What is packed.
        destination: Made where missing. Of a training that lies there already, only what is missing
            is added.
        say: Called with what was mended.
        choose: Whether a run, as in its run.json, is packed.

    Returns:
        Number of runs copied.

    Raises:
        LeftOut: Some records do not read; all others were copied.
        BenchError: The destination is this store, or holds another training of a run; nothing was
            copied. Or it cannot be written.
    """
    if destination.resolve() == store.root.resolve():
        raise BenchError(
            f"{destination} is the store that is exported. Name another folder for the copies."
        )
    roots = [f"{root}/" for root in (store.root.absolute(), store.root)]
    packs: dict[Path, Runs] = {}
    damaged: dict[Path, list[Path]] = {}
    targets: list[tuple[Path, RunFolder, list[str]]] = []
    left_out: list[str] = []
    for folder in store.runs():
        try:
            if folder.trained is None or not choose(folder.run):
                continue
            new = _content(folder, left_out)
            pack = destination / _pack_of(new["run"])
        except DAMAGED as error:
            left_out.append(f"{folder.name}: {error}")
            continue
        if pack not in packs:
            packs[pack], damaged[pack] = _read_pack(pack)
        named = (p for r in new["results"].values() for p in r.get("pictures") or ())
        pictures = [name for name in named if isinstance(name, str)]
        targets.append((pack, folder, pictures))
        old = packs[pack].get(folder.name)
        new = _merge(old, new, pack, is_damaged=bool(damaged[pack])) if old else new
        packs[pack][folder.name] = new | {"events": _without(roots, new["events"])}
    with guard(destination, "DESTINATION"):
        for pack, runs in packs.items():
            remove_temporary(pack)
            for file in damaged[pack]:
                say(f"{file} was damaged and is written anew. Kept as {_set_aside(file)}.")
            _write(pack, dict(sorted(runs.items())))
        for pack, folder, pictures in targets:
            left_out += _write_pictures(folder, pictures, pack / "pictures" / folder.name)
    if left_out:
        raise LeftOut(
            f"{len(targets)} finished runs are recorded in {destination}. What does not read is "
            f"left out. {printable(' '.join(left_out))}"
        )
    return len(targets)


def _merge(
    old: dict[str, Any], new: dict[str, Any], pack: Path, *, is_damaged: bool
) -> dict[str, Any]:
    """A run's line in a packed folder, with the results and texts that are missing there.

    Args:
        old, new: The line that is there, and that of the store.
        pack: The packed folder.
        is_damaged: Whether something of it does not read; the store's line then comes first.

    Raises:
        BenchError: They are of two trainings.
    """
    if (old["trained"] or {}).get("digest") != new["trained"].get("digest"):
        raise BenchError(
            f"{pack} holds another training of the run {new['name']}, with other weights, and "
            "records of two are never mixed. Nothing was copied. Export to another folder, or move "
            "that one away."
        )
    below, above = (old, new) if is_damaged else (new, old)
    both = {p: dict(sorted({**below[p], **above[p]}.items())) for p in ("results", "texts")}
    return above | both | {"events": new["events"]}


def _pack_of(run: dict[str, Any]) -> str:
    """The name of the folder that a run is packed into."""
    name = f"{run['dataset']}-{run['preset']}"
    if not is_name(name):
        raise ValueError(f"Its run.json names the dataset and preset '{name}', which is no name.")
    return name


def _read_pack(pack: Path) -> tuple[Runs, list[Path]]:
    """The runs of a packed folder that read, and its files that are damaged."""
    file, runs, damaged = pack / NAME, {}, []
    problems: list[str] = []
    for run in read_packed(file) if file.is_file() else []:
        if isinstance(run.content, str):
            problems.append(run.content)
        else:
            runs[run.path.name] = _content(run, problems)
    curves = pack / CURVES
    for path, is_damaged in ((file, bool(problems)), (curves, not _unpacks(curves))):
        damaged += [path] if is_damaged else []
    return runs, damaged


def _unpacks(file: Path) -> bool:
    return not file.is_file() or decompress(file.read_bytes())[1]


def _set_aside(file: Path) -> Path:
    """Copy a damaged file to a name that no reader looks for; returns it."""
    content = file.read_bytes()
    digest = digest_of(content)
    copy = file.with_name(f"{file.name}.damaged-{digest[:8]}")
    write_whole(copy, content, "DESTINATION")
    return copy


def _content(folder: RunFolder, problems: list[str]) -> dict[str, Any]:
    """A run's line; what is wrong with results that do not read is added to the problems."""
    results = {}
    for name in folder.result_names():
        try:
            results[name] = folder.result(name)
        except BenchError as error:
            problems.append(f"{folder.name}/results/{name}: {error}")
    names = [name for result in results.values() for name in result.get("texts") or ()]
    texts = {Path(name).name: folder.text(name) for name in names}
    return {
        "name": folder.name,
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
        start = time_of(others[0]) if others else 0
        for event in _thin([e for e in events if e["kind"] == "progress"]):
            where = name, event["stage"], event["step"], round(event["time"] - start, 1)
            curves += [(*where, term, f"{x:.6g}") for term, x in terms_of(event).items()]
        content, fits = _checked(content | {"events": others})
        unchecked += [] if fits else [name]
        results = content.pop("results")
        lines += [content, *({"result": key, "content": r} for key, r in results.items())]
    dump = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
    body = "".join(f"{dump(line)}\n" for line in lines).encode()
    digest = digest_of(body)
    head = {"packed": VERSION, "runs": len(runs), "digest": digest, "unchecked": unchecked}
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(curves)
    for file, text in (
        (CURVES, table.getvalue().encode()),
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


def _write_pictures(folder: RunFolder, names: Iterable[str], target: Path) -> list[str]:
    """Add the pictures of a run that are missing or cut short; returns those that do not read."""
    lost = []
    for name in names:
        file, copy = folder.picture(name), target / f"{Path(name).stem}.webp"
        if file is None or (copy.is_file() and _is_whole(copy.read_bytes())):
            continue
        try:
            content = file.read_bytes() if file.suffix == ".webp" else _as_webp(file)
            if not _is_whole(content):
                raise ValueError("it is cut short")
        except _NO_PICTURE as error:
            lost.append(f"The picture {file} does not read ({error}).")
            continue
        write_whole(copy, content, "DESTINATION")
    return lost


def _is_whole(webp: bytes) -> bool:
    """Whether WebP is as long as its head says (RIFF: the size is that of what follows it)."""
    return webp[:4] == b"RIFF" and len(webp) >= 8 + int.from_bytes(webp[4:8], "little")


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
