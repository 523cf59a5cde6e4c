"""Whether the classifiers know the test data as well as the data they were made for."""

from __future__ import annotations

from collections.abc import Iterable

from shalabench.records.frame import Result

_FAR = 0.05  # of accuracy, below what is recorded with the weights
_ERRORS = 4  # standard errors that the difference must exceed as well


def weak_classifiers(results: Iterable[Result]) -> list[str]:
    """A warning for each classifier that is far worse on real test data than it was recorded to be.

    Returns:
        Sentences for below a table; none where the accuracies agree or one is unknown.
    """
    warnings: dict[str, None] = {}
    for result in results:
        roles = {name: m.get("role", "") for name, m in result.metrics.items()}
        for score in result.content["scores"]:
            name = score["target"]
            recorded = (result.classifiers or {}).get(name, {}).get("accuracy")
            if roles.get(score["metric"]) != "classifier" or not isinstance(recorded, float):
                continue
            noise = _ERRORS * (score.get("stderr") or 0)
            if score["value"] < recorded - max(_FAR, noise):
                warnings[
                    f"Warning: the classifier of {name} has an accuracy of {score['value']:.3f} on "
                    f"the real {result.split} data, and {recorded:.3f} is recorded with "
                    "its weights. The data may not be those it was trained for; what it measures "
                    "is no coherence."
                ] = None
    return list(warnings)
