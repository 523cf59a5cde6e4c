"""Reading and writing of classifiers' weights, without pickle and checked by digest."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from classifiers.accuracy import measure_accuracy
from classifiers.attributes import judged, questions
from classifiers.networks import PublishedClassifier, build
from shalabench.api import Classifier, DataError, DataSpec, Modality, Split

SHIPPED = Path(__file__).parent / "weights"
_INDEX = "weights.json"
_STATED = {"digest", "dataset", "accuracy", "command"}  # what every entry of weights.json must say
_PUBLISHED = "pretrained_img_to_digit_clf_"


def save(
    network: nn.Module, modality: Modality, folder: Path, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write one classifier's weights (float16) and enter it in the folder's weights.json.

    Args:
        network: Trained.
        modality: The one it classifies.
        folder: Made where missing.
        facts: For the entry: at least the "dataset", the "accuracy" on its test split, and the
            "command" that made the weights.

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
        folder.mkdir(parents=True, exist_ok=True)
        entries = _read_index(folder) if (folder / _INDEX).exists() else {}
        index = json.dumps(dict(sorted((entries | {modality.name: entry}).items())), indent=1)
        _replace(folder / f"{modality.name}.npz", packed.getvalue())
        _replace(folder / _INDEX, f"{index}\n".encode())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}). Free some room, or name another folder with "
            "--out."
        ) from error
    return entry


class NotShipped(DataError):
    """A dataset with classes has no classifiers yet."""


def load(
    spec: DataSpec,
    device: torch.device | str,
    archive: Path | None = None,
    split: Split | None = None,
) -> dict[str, Classifier]:
    """The classifiers of every modality, in eval mode, their weights frozen.

    Args:
        spec: What the data consist of.
        device: Where they will run.
        archive: A folder that `save` wrote, or the published PolyMNIST archive (the zip file or its
            unpacked folder); the shipped weights where None.
        split: Where to measure the accuracy of classifiers that state none, as the published ones
            do not; on `device`. Without it theirs is None.

    Returns:
        By modality; nothing for data without classes and attributes.

    Raises:
        DataError: There are none, they are damaged, or they are for other data.
    """
    if not judged(spec):
        return {}
    folder = archive or SHIPPED / spec.name
    if (folder / _INDEX).is_file():
        found = _load_own(spec, folder)
    elif archive is not None:
        found = _load_published(spec, archive)
    else:
        raise NotShipped(
            f"No classifiers are shipped for the dataset '{spec.name}'. {_advice(spec)}"
        )
    for name, classifier in found.items():
        _make_ready(classifier.network, device)
        if classifier.accuracy is None and split is not None:
            accuracy = measure_accuracy(classifier.network, spec[name], split)
            found[name] = replace(classifier, accuracy=accuracy)
    return found


def _load_own(spec: DataSpec, folder: Path) -> dict[str, Classifier]:
    entries = _read_index(folder)
    missing = [m.name for m in judged(spec) if m.name not in entries]
    if missing:
        raise DataError(
            f"{folder} has classifiers for {', '.join(entries) or 'nothing'}, and none for "
            f"{', '.join(missing)} of '{spec.name}'. {_advice(spec)}"
        )
    found, outputs = {}, sum(questions(spec).values())
    for modality in judged(spec):
        entry, file = entries[modality.name], folder / f"{modality.name}.npz"
        if entry["dataset"] != spec.name:
            raise DataError(
                f"{file} classifies '{modality.name}' of '{entry['dataset']}', and the data are "
                f"'{spec.name}'. {_advice(spec)}"
            )
        network = _fill(build(modality, outputs), _read_arrays(file, entry["digest"]), file)
        source = f"trained here: {entry['command']}"
        found[modality.name] = Classifier(network, entry["accuracy"], entry["digest"], source)
    return found


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    file = folder / _INDEX
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        lacking = {name: _STATED - entry.keys() for name, entry in entries.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file} is damaged ({error}). Restore it, or remove the folder and train again."
        ) from error
    for name, facts in lacking.items():
        if facts:
            raise DataError(
                f"{file} does not state the {' and '.join(sorted(facts))} of '{name}'. Restore it, "
                "or remove the folder and train again."
            )
    return entries


def _read_arrays(file: Path, digest: str) -> dict[str, Tensor]:
    try:
        content = file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            raise DataError(
                f"{file} has the SHA-256 {found[:12]}, and {_INDEX} beside it states {digest[:12]}."
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
            f"{archive} has classifiers for {', '.join(sorted(files)) or 'nothing'}, and none for "
            f"{', '.join(missing)} of '{spec.name}' (files {_PUBLISHED}*, or {_INDEX}). "
            "Name another archive with --classifiers."
        )
    found = {}
    for name in spec.names:
        file = archive / f"{_PUBLISHED}{name}"
        try:
            state = torch.load(io.BytesIO(files[name]), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{file} does not load ({error}). Fetch it again.") from error
        network = _fill(PublishedClassifier(), state, file)
        digest = hashlib.sha256(files[name]).hexdigest()
        found[name] = Classifier(network, None, digest, "the published archive")
    return found


def _read_published(archive: Path) -> dict[str, bytes]:
    """Contents of the published classifiers' files, by modality."""
    try:
        if archive.is_dir():
            return {
                file.name.removeprefix(_PUBLISHED): file.read_bytes()
                for file in archive.rglob(f"{_PUBLISHED}*")
            }
        with zipfile.ZipFile(archive) as packed:
            return {
                Path(name).name.removeprefix(_PUBLISHED): packed.read(name)
                for name in packed.namelist()
                if Path(name).name.startswith(_PUBLISHED)
            }
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} does not open ({error}). Fetch it again.") from error


def _fill(network: nn.Module, state: dict[str, Tensor], file: Path) -> nn.Module:
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise DataError(
            f"{file} is for another network or modality ({error}). Name another archive with "
            "--classifiers, or train classifiers for these data."
        ) from error
    return network


def _make_ready(network: nn.Module, device: torch.device | str) -> None:
    network.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()


def _advice(spec: DataSpec) -> str:
    return (
        f"Train them with `python bench.py classifiers train --dataset {spec.name}`, or name an "
        "archive with --classifiers."
    )


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}")
    partial.write_bytes(content)
    partial.replace(file)
