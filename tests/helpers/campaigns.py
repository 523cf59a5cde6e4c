"""Campaigns of runs on the toy data, with classifiers trained for a moment."""

from __future__ import annotations

import classifiers
from helpers.toys import toy_data
from shalabench.api import DataPaths
from shalabench.config.plan import plan
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter


def train_classifiers(folder):
    """Train classifiers of the toy data for a moment."""
    dataset = toy_data(folder)
    for modality in dataset.spec.modalities:
        network = classifiers.train(dataset.spec, modality, dataset.split("train"), updates=300)
        test = dataset.split("test")
        accuracy = classifiers.measure_answers(network, modality, dataset.spec, test)["class"]
        facts = {
            "accuracy": accuracy,
            "command": "a test",
            "n": 64,
            "validation": accuracy,
            "data": "",
            "dataset": "toy",
        }
        classifiers.save(network, modality, folder, facts)
        assert accuracy > 0.9


class Listener(Reporter):
    """Remembers what was said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)


def options(tmp_path, archive, **changes):
    paths = DataPaths(tmp_path, tmp_path)
    base = dict(store=tmp_path / "store", paths=paths, archive=archive, device="cpu", threads=1)
    return Options(**(base | changes))


def smoke(*models, seeds=(0,), overrides=()):
    return plan(models, "toy", "smoke", seeds, overrides)


def run(runs, chosen, stop=None):
    listener = Listener()
    with listener:
        return run_campaign(runs, chosen, listener, stop), listener.said
