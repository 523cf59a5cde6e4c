"""Record how FID and KID with each feature extractor answer to known damage.

    python benchmarks/extractors.py measure [--datasets polydigits,...] [--sizes 64,112]
    python benchmarks/extractors.py render

`measure` compares damaged training images with the test images and writes
results/extractors/answers.json; it takes a quarter of an hour on one core. The sizes to which
images are resized are compared on half of the first data set's images. `render` writes the tables
of docs/extractors.md from this file.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from tabulate import tabulate
from timing import ROOT, describe_processor
from torch import Tensor

FILE, PAGE = ROOT / "results" / "extractors" / "answers.json", ROOT / "docs" / "extractors.md"
DATASETS = {  # modalities that are measured, and those whose pictures stand in for them
    "polydigits": {"m0": "m1"},
    "mst-digits": {"svhn": None},
    "birds": {"image": None},
}
CLASSIFIER, NETWORK = "classifier", "efficientnet-lite0"
FLOOR = "none (the floor)"
_SUBSETS = 5  # of KID, of 1,000 images each
_BLIND = 1.1  # times the floor: the largest FID of a damage that counts as not seen
_LOST = 4  # the class that is left out
Images = Tensor  # uint8 [N, C, H, W]


def blur(images: Images, sigma: float) -> Images:
    """A Gaussian blur with a standard deviation in pixels, mirrored at the border."""
    x = images.numpy().astype(np.float64)
    for axis in (2, 3):
        x = gaussian_filter1d(x, sigma, axis=axis, mode="reflect")
    return as_images(torch.from_numpy(x))


def average(images: Images, labels: Tensor | None) -> Images:
    """The mean of each picture and the next one of its class, of any picture without classes."""
    groups = [torch.arange(len(images))]
    if labels is not None:
        groups = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
    x, mixed = images.double(), torch.empty(images.shape, dtype=torch.float64)
    for group in groups:
        mixed[group] = (x[group] + x[group.roll(1)]) / 2
    return as_images(mixed)


def posterise(images: Images, levels: int) -> Images:
    """Each channel with a few evenly spaced values."""
    return as_images((images.double() / 255 * (levels - 1)).round() / (levels - 1) * 255)


def add_noise(images: Images, deviation: float) -> Images:
    """Independent normal noise with a standard deviation in units of the range [0, 1]."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return as_images(images + 255 * deviation * noise)


def as_images(x: Tensor) -> Images:
    """Values from 0 to 255 as uint8."""
    return x.clamp(0, 255).round().to(torch.uint8)


def damages(
    images: Images, labels: Tensor | None, other: Images | None, n: int
) -> dict[str, Callable[[], Images]]:
    """What is done to real images, by its name in the tables.

    Args:
        images: Of one modality, more than n.
        labels: Their classes `[N]`, where there are any.
        other: The same tuples' pictures in another modality, where there is one.
        n: How many images each damage returns.
    """
    own, classes = images[:n], None if labels is None else labels[:n]
    made = {
        FLOOR: lambda: own,
        "blur, 0.5 px": lambda: blur(own, 0.5),
        "blur, 1 px": lambda: blur(own, 1),
        "blur, 2 px": lambda: blur(own, 2),
        "mean of two": lambda: average(own, classes),
        "8 grey levels": lambda: posterise(own, 8),
        "noise, 0.05": lambda: add_noise(own, 0.05),
    }
    if labels is not None:
        made["a class lost"] = lambda: images[labels != _LOST][:n]
    if other is not None:
        made["another photograph"] = lambda: other[:n]
    return made


def measure_dataset(name: str, paths: Any, sizes: list[int], n: int) -> dict[str, Any]:
    """FID and KID by extractor and damage: the mean over modalities."""
    import classifiers
    from shalabench.api.registry import find
    from shalabench.metrics.efficientnet import EfficientNetLite0, read_efficientnet
    from shalabench.metrics.features import ClassifierFeatures
    from shalabench.metrics.fid import Real, compare

    cls = find("dataset", name).cls
    dataset = cls(cls.Config())
    dataset.prepare(paths)
    test, train = dataset.split("test"), dataset.split("train")
    judges = classifiers.load(dataset.spec, "cpu")
    networks = {
        f"{NETWORK}, {size} px": EfficientNetLite0(*read_efficientnet(), torch.device("cpu"), size)
        for size in sizes
    }
    parts: dict[str, dict[str, list[dict[str, float]]]] = {}
    for modality, substitute in DATASETS[name].items():
        judge = judges[modality]
        extractors: dict[str, Any] = {CLASSIFIER: ClassifierFeatures(judge.network, judge.digest)}
        other = train.tensors[substitute] if substitute else None
        made = damages(train.tensors[modality], train.labels, other, n)
        for extractor, read in (extractors | networks).items():
            reference = Real(_read(read, test.tensors[modality][:n]))
            for damage, images in made.items():
                found = compare(_read(read, images()), reference, _SUBSETS, 0).values
                print(name, modality, extractor, damage, found, flush=True)
                by_damage = parts.setdefault(extractor, {})
                by_damage.setdefault(damage, []).append(found)
    return {
        extractor: {
            damage: {key: float(np.mean([f[key] for f in found])) for key in ("fid", "kid")}
            for damage, found in by_damage.items()
        }
        for extractor, by_damage in parts.items()
    }


def _read(extractor: Any, images: Images) -> Tensor:
    with torch.inference_mode():
        return torch.cat([extractor(part) for part in images.split(500)]).double()


def measure_cost(sizes: list[int], n: int = 200) -> dict[str, dict[str, float]]:
    """CPU seconds of 1,000 images, by their pixels and the size that they are resized to."""
    from shalabench.metrics.efficientnet import EfficientNetLite0, read_efficientnet

    costs: dict[str, dict[str, float]] = {}
    for size in sizes:
        network = EfficientNetLite0(*read_efficientnet(), torch.device("cpu"), size)
        for pixels in (28, 32):
            images = torch.randint(256, (n, 3, pixels, pixels), dtype=torch.uint8)
            times = []
            for _ in range(3):
                began = time.process_time()
                _read(network, images)
                times.append(time.process_time() - began)
            costs.setdefault(str(pixels), {})[str(size)] = min(times) * 1000 / n
    return costs


def show_answers(answers: dict[str, dict[str, dict[str, float]]], family: str) -> str:
    """A row for each damage: FID and its multiple of the floor's, or KID in thousandths."""
    rows = []
    for damage in next(iter(answers.values())):
        cells = []
        for by_damage in answers.values():
            value, floor = by_damage[damage][family], by_damage[FLOOR][family]
            plain = f"{value:.2f}" if family == "fid" else f"{1000 * value:.1f}"
            times = f" ({value / floor:.1f}×)" if family == "fid" and damage != FLOOR else ""
            cells.append(plain + times)
        rows.append((damage, *cells))
    return tabulate(rows, ("damage", *answers), tablefmt="github", disable_numparse=True)


def show_blind(made: dict[str, Any]) -> str:
    """A line for each extractor: the damage that leaves FID below 1.1 times the floor."""
    unseen: dict[str, list[str]] = {}
    for dataset, answers in made["answers"].items():
        for extractor, by_damage in answers.items():
            known = unseen.setdefault(extractor, [])
            for damage, found in by_damage.items():
                ratio = found["fid"] / by_damage[FLOOR]["fid"]
                if damage != FLOOR and ratio < _BLIND:
                    known.append(f"{damage} on {dataset} ({ratio:.2f}×)")
    return "\n".join(
        f"- {extractor}: {', '.join(known) or 'nothing of this table'}."
        for extractor, known in unseen.items()
    )


def show_cost(made: dict[str, Any]) -> str:
    """CPU seconds of 1,000 images."""
    sizes = list(next(iter(made["cost"].values())))
    rows = [
        (f"{pixels} px", *(f"{row[size]:.1f}" for size in sizes))
        for pixels, row in made["cost"].items()
    ]
    head = ("images of", *(f"resized to {size} px" for size in sizes))
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def render_page(text: str, made: dict[str, Any]) -> str:
    """The page with its tables written anew, each between its marks."""
    shown = {"sizes": show_answers(made["sizes"], "fid")}
    shown |= {"blind": show_blind(made), "cost": show_cost(made)}
    for dataset, answers in made["answers"].items():
        for family in ("fid", "kid"):
            shown[f"{dataset} {family}"] = show_answers(answers, family)
    for part, table in shown.items():
        mark = f"<!-- extractors: {part} -->"
        text = re.sub(
            rf"{mark}.*?<!-- end -->",
            lambda _, mark=mark, table=table: f"{mark}\n\n{table}\n\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
    return text


@click.group(help=__doc__)
def main() -> None:
    """The commands."""


@main.command()
@click.option("--datasets", default=",".join(DATASETS), show_default=True)
@click.option("--sizes", default="64,112", show_default=True, help="Pixels, by commas.")
@click.option("--images", default=2000, show_default=True, help="On each side.")
@click.option("--data-root", type=click.Path(path_type=Path), envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", type=click.Path(path_type=Path), envvar="SHALA_CACHE", required=True)
@click.option("--out", type=click.Path(path_type=Path), default=FILE, help="The file.")
def measure(
    datasets: str, sizes: str, images: int, data_root: Path, cache_dir: Path, out: Path
) -> None:
    """Measure, and write the file."""
    from shalabench.api import DataPaths

    paths = DataPaths(data_root, cache_dir)
    from shalabench.metrics.efficientnet import SIZE

    pixels, names = [int(text) for text in sizes.split(",")], datasets.split(",")
    made = {
        "machine": describe_processor(),
        "torch": torch.__version__,
        "images": images,
        "answers": {name: measure_dataset(name, paths, [SIZE], images) for name in names},
        "sizes": measure_dataset(names[0], paths, pixels, images // 2),
        "cost": measure_cost(pixels),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


@main.command()
def render() -> None:
    """Write the tables of the page."""
    made = json.loads(FILE.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(render_page(text, made), encoding="utf-8")


if __name__ == "__main__":
    main()
