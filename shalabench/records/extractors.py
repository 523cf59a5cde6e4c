"""One result an extractor, of an evaluation that used several."""

from __future__ import annotations

from typing import Any


def split_extractors(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The content of a result file as one result for each feature extractor.

    Each is what an evaluation with that extractor alone would have recorded, so that it stands in
    one row with the results of such evaluations, older ones too.

    Args:
        content: With "extractors" among its details, or a single result.
    """
    details = content.get("details", {}).get("extractors")
    if not details:
        return [content]
    used, classifiers = content.get("instruments", {}), content["classifiers"]
    results = []
    for name, own in details.items():
        is_other = name in used  # instruments of the classifiers are named after modalities
        results.append(
            content
            | {
                "details": own,
                "classifiers": {} if is_other else classifiers,
                "instruments": {k: v for k, v in used.items() if k == name}
                if is_other
                else {k: v for k, v in used.items() if k in classifiers},
                "metrics": [m for m in content["metrics"] if name in m["name"].split("/")],
                "scores": [s for s in content["scores"] if name in s["metric"].split("/")],
            }
        )
    return results
