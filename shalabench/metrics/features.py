"""Feature extractors: images in, a row of features an image out; and files of features."""

from __future__ import annotations

import hashlib
import io
import pickle
import urllib.error
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from shalabench.api import BenchError, DataError, EvalContext, Rng
from shalabench.api.files import NO_HOME, expand_home, write_atomic

INCEPTION = "inception-v3-compat"
OTHER_INCEPTION = "inception-v3-other"  # of another digest: not comparable with published FIDs
CLASSIFIER = "classifier"
# Of torch-fidelity's weights-inception-2015-12-05-6726825d.pth. Its name has the first eight
# digits; several public evaluation records quote the whole.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_LAYER = "2048"
_SHA256 = b"sha256:"  # how a file of features with a digest begins
_AT_ONCE = 50  # images of 299x299 through the network, for memory


class Extractor(Protocol):
    """Turns images into features.

    Attributes:
        name: As in the names of metrics.
        digest: SHA-256 of its weights.
        resize: How images are resized before the network, in words.
    """

    name: str
    digest: str
    resize: str

    def __call__(self, images: Tensor) -> Tensor:
        """Features `[B, D]` float32 of images `[B, C, H, W]` uint8."""
        ...


class ClassifierFeatures:
    """The penultimate layer of a modality's classifier: the input of its last linear layer.

    Args:
        network: In eval mode; maps images in [0, 1] to logits.
        digest: SHA-256 of its weights.
    """

    name = CLASSIFIER
    resize = "none"

    def __init__(self, network: nn.Module, digest: str):
        linear = [part for part in network.modules() if isinstance(part, nn.Linear)]
        if not linear:
            raise BenchError(
                "The classifier has no linear layer whose input could serve as features. Use "
                f"--set evaluators.quality.extractors={INCEPTION}."
            )
        self.network, self.digest, self._head = network, digest, linear[-1]

    def __call__(self, images: Tensor) -> Tensor:
        read: list[Tensor] = []
        hook = self._head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            self.network(images.to(torch.float32, memory_format=torch.channels_last) / 255)
        finally:
            hook.remove()
        return read[0].flatten(1).float()


class Inception:
    """torch-fidelity's port of the network behind published FIDs; its pooled 2048 features.

    Args:
        content: Of a weights file. It is a pickle, so check its digest first.
        digest: SHA-256 of `content`.
        device: Where to run.

    Raises:
        DataError: The content does not hold weights of this network.
    """

    resize = "bilinear to 299x299 as TensorFlow 1 does"

    def __init__(self, content: bytes, digest: str, device: torch.device):
        # Three seconds of import that only this extractor needs.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            network = FeatureExtractorInceptionV3(
                INCEPTION, [_LAYER], feature_extractor_weights_path=io.BytesIO(content)
            )
        except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"The file with the SHA-256 {digest} holds no weights of torch-fidelity's Inception"
                f" ({reason}). Name another with --set evaluators.quality.weights=FILE."
            ) from error
        self.name = inception_name(digest)
        self.digest = digest
        self._network = network.to(device)

    def __call__(self, images: Tensor) -> Tensor:
        if images.shape[1] not in (1, 3):
            raise DataError(
                f"Inception reads images of 1 or 3 channels, and these have {images.shape[1]}. Use "
                f"--set evaluators.quality.extractors={CLASSIFIER}."
            )
        parts = images.expand(-1, 3, -1, -1).split(_AT_ONCE)
        return torch.cat([self._network(part)[0] for part in parts])


def inception_name(digest: str) -> str:
    """The extractor's name in metrics; only the published weights have the published name."""
    return INCEPTION if digest == INCEPTION_SHA256 else OTHER_INCEPTION


def inception_file() -> Path:
    """Where torch-fidelity saves its download; the file may not exist."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"


def read_inception(named: str, sha256: str) -> tuple[bytes, str]:
    """The content of a weights file and its digest, checked before the file is unpickled.

    Args:
        named: Path of a local file. If empty, torch-fidelity's file, downloaded if it is missing.
        sha256: Expected digest; that of the published weights if empty.

    Raises:
        DataError: The file is missing and cannot be downloaded, or has another digest.
    """
    file = expand_home(named) if named else _fetched()
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"{file} (evaluators.quality.weights) cannot be read ({error.strerror}); name the file "
            f"with --set evaluators.quality.weights=FILE, or use "
            f"--set evaluators.quality.extractors={CLASSIFIER}."
        ) from error
    expected, digest = (sha256 or INCEPTION_SHA256).lower(), hashlib.sha256(content).hexdigest()
    if digest != expected:
        raise DataError(
            f"{file} has the SHA-256 {digest}, and {expected} was expected; it was not opened. "
            f"Fetch it again, state the digest of a file that you trust with "
            f"--set evaluators.quality.sha256=..., or use "
            f"--set evaluators.quality.extractors={CLASSIFIER}."
        )
    return content, digest


def _fetched() -> Path:
    file = inception_file()
    if file.exists():
        return file
    if str(file).startswith("~"):
        raise DataError(
            "There is no home directory to keep the Inception weights in. Set TORCH_HOME to a "
            "folder, or name the file with --set evaluators.quality.weights=FILE."
        )
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(file), hash_prefix=INCEPTION_SHA256)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"The Inception weights are not at {file} and could not be fetched from "
            f"{URL_INCEPTION_V3} ({reason}); save the file there, name it with "
            f"--set evaluators.quality.weights=FILE, or measure with the classifiers' features by "
            f"--set evaluators.quality.extractors={CLASSIFIER}."
        ) from error
    return file


def real_folder(cache: Path | None, extractor: Extractor, images: Tensor) -> Path | None:
    """Where features of real images uint8 `[N, C, H, W]` are kept: a key of their content."""
    content = np.ascontiguousarray(images.cpu().numpy())
    parts = (str(content.shape), extractor.digest, extractor.name, extractor.resize)
    key = hashlib.sha256("\0".join(parts).encode() + content.tobytes()).hexdigest()
    return cache / "features" / key[:32] if cache and cache != NO_HOME else None


def read_kept(
    context: EvalContext,
    folder: Path | None,
    items: Tensor | int,
    size: int,
    read: Callable[[Tensor, Rng], dict[str, Tensor]],
    *purpose: str,
) -> dict[str, Tensor]:
    """The features that `read` returns for all items; those kept in a folder are not read.

    Args:
        context: Of the evaluation.
        folder: Where shards are kept; None to keep none.
        items: Numbers `[n]` of the items, or n.
        size: Items in a shard.
        read: Returns features by name of the numbered items.
        purpose: What the random numbers are for.
    """

    def load_or_read(index: Tensor, rng: Rng) -> dict[str, Tensor]:
        file = folder / f"{rng.first:08d}-{len(index)}.npz" if folder else None
        shard = load_features(file) if file else None
        if shard is None:
            shard = {k: x.float().cpu().numpy() for k, x in read(index, rng).items()}
            if file:
                save_features(file, shard)
        return {k: torch.from_numpy(x) for k, x in shard.items()}

    return context.map(load_or_read, items, size, *purpose)


def load_features(file: Path) -> dict[str, np.ndarray] | None:
    """Features by name; None if the file does not exist or is damaged."""
    try:
        content = file.read_bytes()
        if content.startswith(_SHA256):  # older files have no digest
            stated, _, content = content.removeprefix(_SHA256).partition(b"\n")
            if hashlib.sha256(content).hexdigest().encode() != stated:
                return None
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception:  # whatever a damaged stream raises
        return None


def save_features(file: Path, features: Mapping[str, np.ndarray]) -> None:
    """Write a file that `load_features` reads: a line with a digest, and NumPy's archive.

    Raises:
        BenchError: It cannot be written.
    """
    archive = io.BytesIO()
    np.savez(archive, **dict[str, Any](features))
    content = archive.getvalue()
    head = _SHA256 + hashlib.sha256(content).hexdigest().encode() + b"\n"
    try:
        write_atomic(file, head + content)
    except OSError as error:
        raise BenchError(
            f"{file} cannot be written ({error.strerror}). Free some disk space and run the same "
            "command again: it continues with the features that are kept."
        ) from error
