"""Made-up runs with all that a report shows, and what its pages hold."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from shalabench.api import Score
from shalabench.report import build_report


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, file: Path):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.text += " " if tag in ("td", "th", "p", "li") else ""

    def handle_data(self, data):
        self.text += data

    def having(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


def add_parts(folder: Path) -> None:
    """Give a run a matrix, curves, pictures, texts and a cost."""
    file = next((folder / "results").glob("*.json"))
    result = json.loads(file.read_text())
    result["metrics"].append(
        {"name": "coherence/cross", "direction": "higher", "digits": 3, "meaning": "as labelled"}
    )
    pairs = {("m0", "m1"): 0.61, ("m1", "m0"): 0.47}
    result["scores"] += [
        Score("coherence/cross", value, 1000, 0.01, (given,), target).to_json()
        for (given, target), value in pairs.items()
    ]
    result["scores"].append(Score("coherence/cross", 0.54, 1000, 0.01).to_json())
    result["details"] = result.get("details", {}) | {
        "by_angle": [{"degrees": 45, "views": 2, "psnr": 21.5}, {"degrees": 180, "psnr": 19.0}]
    }
    result["pictures"] = ["pictures/samples-joint.png"]
    result["texts"] = ["texts/samples-joint.txt"]
    file.write_text(json.dumps(result))
    trained = json.loads((folder / "trained.json").read_text())
    trained["provenance"] |= {"seconds": 600.0, "peak_memory": 2**30, "device": "cpu", "threads": 1}
    (folder / "trained.json").write_text(json.dumps(trained | {"parameters": 2_000_000}))
    events = [
        {"time": 1.0, "kind": "progress", "stage": "fit", "step": s, "loss": 100 / s, "kl": s}
        for s in range(1, 9)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    for place in ("pictures", "texts"):
        (folder / place).mkdir()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(folder / "pictures" / "samples-joint.png")
    (folder / "texts" / "samples-joint.txt").write_text("a bird <b>with</b> wings")


def built(store, out):
    build_report([store], out)
    return {str(f.relative_to(out)): f for f in sorted(out.rglob("*")) if f.is_file()}
