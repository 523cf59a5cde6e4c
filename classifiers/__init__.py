"""Classifiers of each modality, by which coherence is measured: networks, training, weights."""

from classifiers.attributes import measure_answers
from classifiers.training import train, train_all
from classifiers.weights import NotShipped, load, save

__all__ = ["NotShipped", "load", "measure_answers", "save", "train", "train_all"]
