"""Latents: probes of the shared latent, and the gap between prior and posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Latent,
    Metric,
    Model,
    Outcome,
    Rng,
    Score,
    Settings,
    Split,
    Views,
    choose_subsets,
    fixed_choice,
    register_evaluator,
    setting,
)
from shalabench.metrics.scores import Clusters, mean_score

_FOLDS = 5
_BLOCKS = 10  # of latents, for the standard error of the MMD
_SHOWN = 400  # points of each kind kept for a figure
_MOST_MODALITIES = 10


class LatentsConfig(Settings):
    """How much is measured."""

    items: int = setting(
        2000, "Distinct test tuples, and prior samples; at least 20.", "our choice", ge=20
    )
    train_items: int = setting(
        2000, "Training tuples that a probe learns from; 0: all.", "our choice: as many", ge=0
    )
    subsets: int = setting(
        5, "Subsets of given modalities for each size, the same in every run.", "our choice", ge=1
    )
    batch_size: int = setting(500, "Tuples at a time; changes no result.", "our choice", ge=1)


@register_evaluator("latents", version=1)
class Latents(Evaluator):
    """Linear probes of the shared latent, and the gap between prior and posterior.

    The aggregate posterior is one encoding of each complete test tuple.
    """

    Config = LatentsConfig
    needs = (Latent,)
    least = _FOLDS
    metrics = (
        *(
            Metric.share(
                f"latents/probe-{k}",
                f"accuracy of a linear probe of the class, mean over subsets of {k} modalities",
            )
            for k in range(1, _MOST_MODALITIES + 1)
        ),
        Metric(
            "latents/two-sample",
            "lower",
            3,
            "accuracy of boosted trees that separate prior samples from the aggregate posterior; "
            ".5: no prior hole (Lopez-Paz and Oquab 2017)",
        ),
        Metric(
            "latents/mmd",
            "lower",
            4,
            "unbiased squared MMD of prior samples and the aggregate posterior, Gaussian kernel as "
            "wide as the posterior's median distance (Gretton et al. 2012)",
            biased=True,
        ),
    )

    def too_few(self, spec: DataSpec, split: str) -> str | None:
        n = spec.distinct.get(split, spec.sizes[split])
        if n >= self.least:
            return None
        return f"The {split} split has {n} distinct items; at least {self.least} are needed."

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        # numpy's threads would wait for each other on busy cores.
        with threadpool_limits(torch.get_num_threads()):
            return self._measure(model, spec, split, context)

    def _measure(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        config, size = self.config, self.config.batch_size
        distinct = split.distinct()  # no copies of a photo in both parts of a fold
        items = distinct[fixed_choice(len(distinct), config.items, "latents").to(split.device)]
        sizes: dict[int, list[tuple[str, ...]]] = {}
        if context.splits and spec.classes:
            train = context.splits("train").to(context.device)
            learned = fixed_choice(len(train), config.train_items, "latents").to(train.device)
            sizes = _subsets(model, spec.names, config.subsets)
        probed = sum(map(len, sizes.values())) * (len(items) + len(learned)) if sizes else 0
        context.expect(2 * len(items) + probed)

        subsets = [names for of_size in sizes.values() for names in of_size]
        jobs = [("posterior", *spec.names), *(("test", *names) for names in subsets)]
        codes = context.map_views(model, split, _encodings(model, jobs), items, size)
        posterior = _plain(codes["posterior", *spec.names])
        prior = _plain(
            context.map(lambda i, rng: model.prior(len(i), rng), len(items), size, "prior")
        )
        labels = None if split.labels is None else split.labels[items].cpu().numpy()
        scores = _hole(posterior, prior)
        if subsets:
            jobs = [("train", *names) for names in subsets]
            codes |= context.map_views(model, train, _encodings(model, jobs), learned, size)
            known = train.labels[learned].cpu().numpy()
        for k, of_size in sizes.items():
            parts = [
                _probe(
                    f"latents/probe-{k}",
                    names,
                    (_plain(codes["train", *names]), known),
                    (_plain(codes["test", *names]), labels),
                    _clusters(split, names, items),
                )
                for names in of_size
            ]
            right = torch.stack([right.double() for _, right in parts]).mean(0)  # by test tuple
            clusters = _clusters(split, spec.names, items)
            scores.append(mean_score(f"latents/probe-{k}", right, clusters=clusters))
            scores += [score for score, _ in parts]
        return Outcome(scores, {"projection": _projection(posterior, prior, labels)})


def _encodings(
    model: Model, jobs: Iterable[tuple[str, ...]]
) -> dict[tuple[str, ...], Callable[[Views, Rng], Tensor]]:
    """What encodes the modalities that each job names after its purpose."""

    def encoding(names: tuple[str, ...]) -> Callable[[Views, Rng], Tensor]:
        return lambda views, rng: model.encode({name: views[name] for name in names}, rng)

    return {job: encoding(job[1:]) for job in jobs}


def _plain(latents: Tensor) -> np.ndarray:
    return latents.double().cpu().numpy()


def _subsets(model: Model, names: tuple[str, ...], most: int) -> dict[int, list[tuple[str, ...]]]:
    """Given modalities by their number, at most `most` subsets of each."""
    largest = min(getattr(model, "max_given", None) or len(names), len(names), _MOST_MODALITIES)
    return {k: choose_subsets(names, k, most, "latents", k) for k in range(1, largest + 1)}


def _probe(
    metric: str,
    given: tuple[str, ...],
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    clusters: Clusters | None,
) -> tuple[Score, Tensor]:
    """A subset's probe, and which test tuples it gets right, bool `[n]`."""
    from sklearn.exceptions import ConvergenceWarning  # two seconds that few evaluations need
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(*train)
    right = torch.from_numpy(probe.predict(test[0]) == test[1])
    return mean_score(metric, right, given, clusters=clusters), right


def _clusters(split: Split, names: tuple[str, ...], items: Tensor) -> Clusters | None:
    """What the tuples share in these modalities."""
    sources = split.sources(names, items)
    return None if sources is None else Clusters(sources.cpu(), split.labels[items].cpu())


def _hole(posterior: np.ndarray, prior: np.ndarray) -> list[Score]:
    """How well prior samples can be separated from encodings, both `[n, D]`."""
    from sklearn.preprocessing import StandardScaler

    scale = StandardScaler().fit(posterior)
    posterior, prior = scale.transform(posterior), scale.transform(prior)
    n = len(posterior)
    accuracy = two_sample_accuracy(posterior, prior)
    error = (accuracy * (1 - accuracy) / (2 * n)) ** 0.5
    distance, stderr = squared_mmd(posterior, prior)
    return [
        Score("latents/two-sample", accuracy, 2 * n, error),
        Score("latents/mmd", distance, n, stderr),
    ]


def two_sample_accuracy(a: np.ndarray, b: np.ndarray) -> float:
    """Cross-validated accuracy of separating two samples `[n, D]`, in [0, 1]."""
    x, y = np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])
    # Trees see holes between clusters that small networks and nearest neighbours miss.
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold, cross_val_score

    trees = HistGradientBoostingClassifier(random_state=0)
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(trees, x, y, cv=folds).mean())


def squared_mmd(a: np.ndarray, b: np.ndarray) -> tuple[float, float | None]:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3).

    Args:
        a: `[n, D]`; its median distance is the width of the Gaussian kernel.
        b: `[n, D]`.

    Returns:
        The estimate, which may be negative, and its standard error over blocks of rows (None if
        there are too few).
    """
    from sklearn.metrics.pairwise import euclidean_distances

    distances = euclidean_distances(a, squared=True)
    width = np.median(distances[np.triu_indices(len(a), 1)])
    own_a = _kernel(distances, width)
    own_b = _kernel(euclidean_distances(b, squared=True), width)
    both = _kernel(euclidean_distances(a, b, squared=True), width)
    blocks = [
        _mmd(own_a[np.ix_(i, i)], own_b[np.ix_(i, i)], both[np.ix_(i, i)])
        for i in np.array_split(np.arange(len(a)), max(1, min(_BLOCKS, len(a) // 2)))
    ]
    error = float(np.std(blocks, ddof=1) / len(blocks) ** 0.5) if len(blocks) > 1 else None
    return _mmd(own_a, own_b, both), error


def _kernel(squared_distances: np.ndarray, squared_width: float) -> np.ndarray:
    return np.exp(-squared_distances / (2 * squared_width))


def _mmd(own_a: np.ndarray, own_b: np.ndarray, both: np.ndarray) -> float:
    n = len(own_a)
    pairs = n * (n - 1)
    inner = (own_a.sum() - np.trace(own_a)) / pairs + (own_b.sum() - np.trace(own_b)) / pairs
    return float(inner - 2 * both.mean())


def _projection(
    posterior: np.ndarray, prior: np.ndarray, labels: np.ndarray | None
) -> dict[str, object]:
    """The first encodings and prior samples on the encodings' two principal axes."""
    from sklearn.decomposition import PCA

    axes = PCA(2, random_state=0).fit(posterior) if posterior.shape[1] > 1 else None
    flat = {
        name: (x[:_SHOWN] if axes is None else axes.transform(x[:_SHOWN])).round(3).tolist()
        for name, x in (("posterior", posterior), ("prior", prior))
    }
    shown = None if labels is None else labels[:_SHOWN].tolist()
    variance = None if axes is None else axes.explained_variance_ratio_.round(4).tolist()
    return {**flat, "labels": shown, "explained": variance}
