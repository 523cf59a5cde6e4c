"""The modality classifiers that judge coherence: networks, training, and weights with digests."""

from classifiers.accuracy import measure_accuracy
from classifiers.training import train, train_all
from classifiers.weights import NotShipped, load, save

__all__ = ["NotShipped", "load", "measure_accuracy", "save", "train", "train_all"]
