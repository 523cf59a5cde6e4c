#!/usr/bin/env bash
# datasets 5.2.0: a picture that was opened from a file and then changed in place is stored as the file's
# path, so the change is lost. Dataset.map with picture.thumbnail((64, 64)) leaves every picture as large
# as it was, without an error, if the rows hold paths, as those of "imagefolder" do. The same function
# works if the rows hold bytes. Pictures given to Dataset.from_dict are stored in the same way. A mask that
# ImageDraw draws on a picture is lost too. A copy has no file name, and is stored.
# No upstream issue found. Return picture.copy() after the change.
# This matters where photos are masked or made smaller with this package before a method learns from them,
# or samples before they are scored (docs/external.md): a mask that is lost is seen by no check of shapes,
# and FID, SSIM and coherence are then those of other pictures.
# Here, photos are read as arrays and resized into new pictures (shalabench/datasets/cub.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'datasets==5.2.0' 'pillow==12.3.0' 'numpy==2.4.6'
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" - "$work" << 'END'
import sys
from pathlib import Path

import datasets
import numpy as np
import PIL
from datasets import Dataset, Features, Image
from PIL import ImageDraw

print("datasets", datasets.__version__, "Pillow", PIL.__version__)
datasets.disable_progress_bars()
folder = Path(sys.argv[1]) / "photos"
folder.mkdir()
files = [folder / f"{number}.png" for number in range(3)]
for file in files:
    PIL.Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(file)


def thumbnail(row):
    row["photo"].thumbnail((60, 60))
    return row


def copied(row):
    return {"photo": thumbnail(row)["photo"].copy()}


def mask(row):
    ImageDraw.Draw(row["photo"]).rectangle((0, 0, 299, 199), fill=(0, 0, 0))
    return row


def look(name, data):
    size, white = data[0]["photo"].size, np.asarray(data[0]["photo"]).mean() / 255
    print(f"{name}: {size[0]} x {size[1]}, mean {white:.1f}")
    return size, white


kind = Features({"photo": Image()})
paths = Dataset.from_dict({"photo": [str(file) for file in files]}, features=kind)
read = [{"bytes": file.read_bytes(), "path": None} for file in files]
held = Dataset.from_dict({"photo": read}, features=kind)
loaded = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
loaded = loaded.rename_column("image", "photo")
opened = [PIL.Image.open(file) for file in files]
for picture in opened:
    picture.thumbnail((60, 60))

full, white, small = (300, 200), 1, (60, 40)
assert look("from imagefolder, thumbnail", loaded.map(thumbnail))[0] == full, "Stored now."
assert look("from paths, thumbnail", paths.map(thumbnail))[0] == full, "Stored now."
assert look("from paths, masked", paths.map(mask))[1] == white, "Stored now."
assert look("from bytes, thumbnail", held.map(thumbnail))[0] == small
assert look("from bytes, masked", held.map(mask))[1] == 0
assert look("from paths, copy of the thumbnail", paths.map(copied))[0] == small
print("opened pictures:", opened[0].size)
assert opened[0].size == small
assert look("given to from_dict", Dataset.from_dict({"photo": opened}))[0] == full, "Stored now."
END
