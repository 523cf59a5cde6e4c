"""Networks of the classifiers: for each kind of modality, and PolyMNIST's published one."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shalabench.api import DataError, Modality


def build(modality: Modality, classes: int) -> nn.Module:
    """An untrained classifier from views `[B, ...]` to logits `[B, classes]`.

    Raises:
        DataError: It cannot take the modality's shape.
    """
    kinds = {"image": ImageClassifier, "text": TextClassifier, "vector": VectorClassifier}
    return kinds[modality.kind](modality, classes)


_SMALL = ((24, 2), (48, 1), (48, 2), (96, 1))  # channels and stride of each convolution
_LEAST = 5  # pixels of the shorter side of which the convolutions and the maximum leave one
_LARGE = ((16, 2), (32, 2), (48, 1), (64, 2), (96, 1))  # beyond 32 x 32


class ImageClassifier(nn.Module):
    """Convolutions with batch norm: 82,000 parameters at 3x28x28, 181,000 at 3x64x64."""

    def __init__(self, modality: Modality, classes: int):
        super().__init__()
        channels, height, width = modality.shape
        if min(height, width) < _LEAST:
            raise DataError(
                f"Modality '{modality.name}' is {height} x {width}; its classifier takes images of "
                f"at least {_LEAST} x {_LEAST}. Enlarge the images, or describe them as a vector."
            )
        steps = _SMALL if max(height, width) <= 32 else _LARGE
        inputs = [channels, *(outputs for outputs, _ in steps)]
        self.layers = nn.Sequential(
            *(
                layer
                for before, (after, stride) in zip(inputs, steps, strict=False)
                for layer in _convolution(before, after, stride)
            ),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        with torch.no_grad():
            features = self.layers.eval()(torch.zeros(1, channels, height, width)).shape[1]
        self.train()
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def _convolution(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


class TextClassifier(nn.Module):
    """Token embedding, one convolution over positions, maximum over positions."""

    def __init__(self, modality: Modality, classes: int):
        super().__init__()
        self.embedding = nn.Embedding(len(modality.vocabulary), 32)
        self.convolution = nn.Conv1d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.convolution(self.embedding(x).transpose(1, 2)))
        return self.head(features.amax(-1))


class VectorClassifier(nn.Module):
    """Two linear layers with batch norm."""

    def __init__(self, modality: Modality, classes: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            *_linear(math.prod(modality.shape), 128),
            *_linear(128, 64),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


def _linear(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]


class PublishedClassifier(nn.Module):
    """PolyMNIST's published classifier, into which its weights fit (reproduction/metrics.md)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 10, 4, 2, 1),
            nn.Dropout2d(0.5),
            nn.ReLU(),
            nn.Conv2d(10, 20, 4, 2, 1),
            nn.Dropout2d(0.5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(980, 128),
            nn.Dropout(0.5),
            nn.ReLU(),
            nn.Linear(128, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)
