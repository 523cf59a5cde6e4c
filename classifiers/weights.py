"""Reading and writing of classifiers' weights, without pickle and checked by their digest."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classifiers.attributes import classified, questions
from classifiers.networks import PublishedClassifier, build
from shalabench.api import Classifier, DataError, DataSpec, Modality
from shalabench.api.files import write_atomic

SHIPPED = Path(__file__).parent / "weights"
_INDEX = "weights.json"
_REQUIRED = {"digest", "dataset", "accuracy", "command"}  # keys of every entry of weights.json
_PUBLISHED = "pretrained_img_to_digit_clf_"
_FILE = re.compile(rf"{_PUBLISHED}(.+?)(?:\.pth?)?")
_UNREADABLE = (OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


def save(
    network: nn.Module, modality: Modality, folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the weights of one classifier in float16, and its entry in the folder's weights.json.

    Args:
        network: The trained classifier.
        modality: The one it classifies.
        folder: Where to write; it is made if it does not exist.
        facts: What the entry holds: at least the "dataset", the "accuracy" on its test split, and
            the "command" that made the weights.

    Returns:
        The entry: the SHA-256 of the weights file as "digest", and the facts.

    Raises:
        DataError: The folder cannot be written.
    """
    arrays = {
        key: value.detach().cpu().numpy().astype(np.float16 if value.is_floating_point() else int)
        for key, value in network.state_dict().items()
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    entry = {"digest": hashlib.sha256(packed.getvalue()).hexdigest(), **facts}
    try:
        entries = _read_index(folder) if (folder / _INDEX).exists() else {}
        index = json.dumps(dict(sorted((entries | {modality.name: entry}).items())), indent=1)
        write_atomic(folder / f"{modality.name}.npz", packed.getvalue())
        write_atomic(folder / _INDEX, f"{index}\n".encode())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}). Free some disk space, or name another folder "
            "with --out."
        ) from error
    return entry


class NotShipped(DataError):
    """A dataset with classes or attributes has no shipped classifiers."""


def load(
    spec: DataSpec, device: torch.device | str, archive: Path | None = None
) -> dict[str, Classifier]:
    """Load the classifier of every modality, in eval mode and with frozen weights.

    Args:
        spec: What the data consist of.
        device: Where they will run.
        archive: A folder that `save` wrote, or the published PolyMNIST archive (the zip file or its
            unpacked folder), which states no accuracies. None loads the shipped weights.

    Returns:
        The classifiers by modality; none for data without classes and attributes.

    Raises:
        DataError: The classifiers are missing, damaged, or for other data.
    """
    if not classified(spec):
        return {}
    folder = archive or SHIPPED / spec.name
    if (folder / _INDEX).is_file():
        loaded = _load_folder(spec, folder)
    elif archive is not None:
        loaded = _load_published(spec, archive)
    else:
        raise NotShipped(
            f"No classifiers are shipped for the dataset '{spec.name}'. {_advice(spec)}"
        )
    for classifier in loaded.values():
        network = classifier.network.to(device, memory_format=torch.channels_last)
        network.requires_grad_(False).eval()
    return loaded


def _load_folder(spec: DataSpec, folder: Path) -> dict[str, Classifier]:
    entries = _read_index(folder)
    missing = [m.name for m in classified(spec) if m.name not in entries]
    if missing:
        raise DataError(
            f"{folder} has classifiers for {', '.join(entries) or 'nothing'}, but none for "
            f"{', '.join(missing)} of '{spec.name}'. {_advice(spec)}"
        )
    loaded, outputs = {}, sum(questions(spec).values())
    for modality in classified(spec):
        entry, file = entries[modality.name], folder / f"{modality.name}.npz"
        if entry["dataset"] != spec.name:
            raise DataError(
                f"{file} classifies '{modality.name}' of '{entry['dataset']}', but the data are "
                f"'{spec.name}'. {_advice(spec)}"
            )
        network = _fill(build(modality, outputs), _read_arrays(file, entry["digest"]), file)
        source = f"trained here: {entry['command']}"
        loaded[modality.name] = Classifier(network, entry["accuracy"], entry["digest"], source)
    return loaded


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / _INDEX
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        lacking = {name: _REQUIRED - entry.keys() for name, entry in entries.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file} is damaged ({error}). Restore it, or remove the folder and train again."
        ) from error
    for name, facts in lacking.items():
        if facts:
            raise DataError(
                f"{file} lacks the {' and '.join(sorted(facts))} of '{name}'. Restore it, "
                "or remove the folder and train again."
            )
    return entries


def _read_arrays(file: Path, digest: str) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != digest:
            raise DataError(
                f"{file} has the SHA-256 {actual[:12]}, but {_INDEX} beside it has {digest[:12]}."
                " Restore the file, or train the classifiers again."
            )
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} does not load ({error}). Restore it or train again.") from error


def _load_published(spec: DataSpec, archive: Path) -> dict[str, Classifier]:
    files = _read_published(archive)
    missing = [name for name in spec.names if name not in files]
    if missing:
        raise DataError(
            f"{archive} has classifiers for {', '.join(sorted(files)) or 'nothing'}, but none for "
            f"{', '.join(missing)} of '{spec.name}'. It must hold files {_PUBLISHED}* or {_INDEX}. "
            "Name another archive with --classifiers."
        )
    loaded = {}
    for name in spec.names:
        path, content = files[name]
        file = archive / path
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or hostile file raises
            is_more = isinstance(error, pickle.UnpicklingError)
            reason = "it holds more than tensors" if is_more else str(error).partition("\n")[0]
            raise DataError(
                f"{file} does not load ({reason}). Download it again, or save the weights alone "
                "with torch.save(network.state_dict(), FILE)."
            ) from error
        network = _fill(PublishedClassifier(), state, file)
        digest = hashlib.sha256(content).hexdigest()
        loaded[name] = Classifier(network, None, digest, "the published archive")
    return loaded


def _read_published(archive: Path) -> dict[str, tuple[str, bytes]]:
    """Paths below the archive and contents of the published classifiers' files, by modality."""
    try:
        if archive.is_dir():
            files = [file for file in archive.rglob(f"{_PUBLISHED}*") if file.is_file()]
            names = _by_modality(archive, [str(file.relative_to(archive)) for file in files])
            return {m: (name, (archive / name).read_bytes()) for m, name in names.items()}
        with zipfile.ZipFile(archive) as packed:
            names = _by_modality(archive, packed.namelist())
            return {m: (name, packed.read(name)) for m, name in names.items()}
    except _UNREADABLE as error:
        raise DataError(
            f"{archive} does not open ({error}). It must be the published zip file or its unpacked "
            "folder. Download it again."
        ) from error


def _by_modality(archive: Path, names: Iterable[str]) -> dict[str, str]:
    """The path of each modality's file; what macOS adds (__MACOSX, ._*) is passed over.

    Raises:
        DataError: Two files are for one modality.
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        match = _FILE.fullmatch(PurePosixPath(name).name)
        if not match or "__MACOSX" in PurePosixPath(name).parts:
            continue
        if other := found.get(match[1]):
            raise DataError(
                f"{archive} has two classifiers for '{match[1]}': {other} and {name}. Remove one, "
                "or name the folder of those that are meant with --classifiers."
            )
        found[match[1]] = name
    return found


def _fill(network: nn.Module, state: dict[str, Tensor], file: Path) -> nn.Module:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{file} is for another network or modality ({error}). Name another archive with "
            "--classifiers, or train classifiers for these data."
        ) from error
    return network


def _advice(spec: DataSpec) -> str:
    return (
        f"Train them with `shala-bench classifiers train --dataset {spec.name}`, or name an "
        "archive with --classifiers."
    )
