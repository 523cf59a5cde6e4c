"""Unpacking of archives, none of whose paths may lead out of the folder."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

from shalabench.datasets.sources.files import as_data_error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive into a folder that appears only once it is whole.

    Args:
        archive: A zip file, or a tar file, compressed or not.
        folder: Where its content goes; nothing happens where it exists.

    Raises:
        DataError: The archive is damaged, or has a path or a link that leads out of the folder, or
            a device file.
    """
    if folder.exists():
        return
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    remedy = "Free some room if the disk is full; else delete the file and fetch it again."
    try:
        with as_data_error(f"{archive} does not unpack", remedy):
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as content:  # drops ".." and checks the content
                    content.extractall(unfinished)
            else:
                with tarfile.open(archive) as content:
                    content.extractall(unfinished, filter="data")
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
