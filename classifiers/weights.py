"""Reading and writing of classifiers' weights, without pickle and checked by digest."""

from __future__ import annotations

import hashlib
import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from classifiers.networks import PublishedClassifier, build
from harness.api import Classifier, DataError, DataSpec, Modality

SHIPPED = Path(__file__).parent / "weights"
_PUBLISHED = "pretrained_img_to_digit_clf_"


def save(network: nn.Module, modality: Modality, folder: Path, facts: dict) -> str:
    """Write one classifier's weights (float16) and enter it in the folder's weights.json.

    Args:
        network: Trained.
        modality: The one it classifies.
        folder: Made where missing.
        facts: Accuracy, data and command, for the entry.

    Returns:
        SHA-256 of the weights file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        key: value.detach().cpu().numpy().astype(np.float16 if value.is_floating_point() else int)
        for key, value in network.state_dict().items()
    }
    file = folder / f"{modality.name}.npz"
    np.savez_compressed(file, **arrays)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    index = folder / "weights.json"
    entries = json.loads(index.read_text()) if index.exists() else {}
    entries[modality.name] = {"digest": digest, **facts}
    index.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
    return digest


def load(
    spec: DataSpec, device: torch.device, archive: Path | None = None
) -> dict[str, Classifier]:
    """The classifiers of every modality, in eval mode.

    Args:
        spec: What the data consist of.
        device: Where they will run.
        archive: A folder that `save` wrote, or the published PolyMNIST archive (the zip file or its
            unpacked folder); the shipped weights where None.

    Raises:
        DataError: There are none, they are damaged, or they are for other modalities.
    """
    if not spec.classes:
        return {}
    folder = archive or SHIPPED / spec.name
    if (folder / "weights.json").is_file():
        return {m.name: _load_own(m, spec, folder, device) for m in spec.modalities}
    if archive is not None:
        return _load_published(spec, archive, device)
    raise DataError(
        f"No classifiers are shipped for the dataset '{spec.name}'. Train them with "
        f"`python bench.py classifiers train --dataset {spec.name}`, or name an archive with "
        "--classifiers."
    )


def _load_own(modality: Modality, spec: DataSpec, folder: Path, device: torch.device) -> Classifier:
    entries = json.loads((folder / "weights.json").read_text())
    if modality.name not in entries:
        raise DataError(
            f"{folder} has classifiers for {', '.join(entries)} and none for '{modality.name}' of "
            f"'{spec.name}'. Train it: `python bench.py classifiers train --dataset {spec.name}`."
        )
    entry, file = entries[modality.name], folder / f"{modality.name}.npz"
    try:
        content = file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != entry["digest"]:
            raise DataError(
                f"{file} has the SHA-256 {found[:12]}..., and weights.json states "
                f"{entry['digest'][:12]}.... Restore the file, or train the classifiers again."
            )
        with np.load(file, allow_pickle=False) as arrays:
            state = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} does not load ({error}). Restore it or train again.") from error
    network = _fill(build(modality, spec.classes), state, file)
    source = f"trained here: {entry['command']}"
    return Classifier(_ready(network, device), entry["accuracy"], found, source)


def _load_published(spec: DataSpec, archive: Path, device: torch.device) -> dict[str, Classifier]:
    if archive.is_file():
        try:
            with zipfile.ZipFile(archive) as content, tempfile.TemporaryDirectory() as unpacked:
                names = [n for n in content.namelist() if Path(n).name.startswith(_PUBLISHED)]
                content.extractall(unpacked, names)
                return _load_published(spec, Path(unpacked), device)
        except zipfile.BadZipFile as error:
            raise DataError(f"{archive} does not unpack ({error}). Fetch it again.") from error
    found = {file.name: file for file in archive.rglob(f"{_PUBLISHED}*")}
    classifiers = {}
    for modality in spec.modalities:
        file = found.get(_PUBLISHED + modality.name)
        if file is None:
            held = ", ".join(sorted(n.removeprefix(_PUBLISHED) for n in found)) or "no classifier"
            raise DataError(
                f"{archive} holds {held}, and none for '{modality.name}' of '{spec.name}' "
                f"({_PUBLISHED}{modality.name}). Name another archive with --classifiers."
            )
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise DataError(f"{file} does not load ({error}). Fetch it again.") from error
        network = _fill(PublishedClassifier(), state, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        classifiers[modality.name] = Classifier(
            _ready(network, device), None, digest, "the published archive"
        )
    return classifiers


def _fill(network: nn.Module, state: dict[str, torch.Tensor], file: Path) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f"{file} is for another network or modality: {error}") from error
    return network


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    return network.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
