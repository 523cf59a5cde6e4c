"""Captions as tokens, and the modalities of a photo with its caption."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from shalabench.api import END, PAD, DataError, Modality
from shalabench.datasets.sources.files import as_data_error, split_lines

UNKNOWN = "<unk>"
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[^\sa-z0-9]")
# Some published captions contain it: they were once read in a wrong encoding.
_LOST = "\N{REPLACEMENT CHARACTER}"
_MARK = "\ufeff"  # a byte-order mark within a text, where files were joined


def describe_pair(
    side: int, length: int, vocabulary: Sequence[str], image_weight: float = 32 / (3 * 64 * 64)
) -> tuple[Modality, ...]:
    """An image and its caption, as MMVAE+'s code models CUB (reproduction/mmvae-plus.md).

    The image's Laplace has the scale .01. The log-likelihoods have the weights 32 / (3 * 64 * 64)
    (image, by default) and 5 (caption; 1 in MMVAE's code). Every token of a caption is scored,
    also padding, as in MMVAE+'s code; MMVAE's code leaves out token 0.
    """
    image = Modality("image", "image", (3, side, side), "laplace", scale=0.01, weight=image_weight)
    words = tuple(vocabulary)
    return image, Modality(
        "caption", "text", (length,), "categorical", weight=5.0, vocabulary=words
    )


def read_captions(file: Path, count: int) -> list[list[str]]:
    """Read the words of a file's first captions, one a line.

    Args:
        file: UTF-8 text.
        count: How many captions to read.

    Raises:
        DataError: The file is not there, is no UTF-8, has too few lines, or has a line that is
            empty or has a character that no caption has; file and line are named.
    """
    again = "Restore it from the archive of captions."
    with as_data_error(f"The captions {file} cannot be read", again):
        content = file.read_bytes()
    try:
        lines = split_lines(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = len(split_lines(error.object[: error.start].decode()))
        raise DataError(
            f"{file}, line {line}: the byte 0x{error.object[error.start]:02x} is no UTF-8, which "
            f"was expected. {again}"
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) < count:
        raise DataError(
            f"{file}, line {len(lines) + 1}: the file ends after {len(lines)} captions, and "
            f"{count} were expected, one a line. {again}"
        )
    return [_words(text, file, number) for number, text in enumerate(lines[:count], start=1)]


def _words(text: str, file: Path, line: int) -> list[str]:
    blank = "".join(" " if c in (_LOST, _MARK) or c.isspace() else c for c in text)
    plain = unicodedata.normalize("NFKD", blank.lower())
    plain = plain.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"'})
    plain = plain.translate({0x2013: "-", 0x2014: "-"})
    plain = "".join(c for c in plain if not unicodedata.combining(c))  # é is e
    strange = next((c for c in plain if not " " <= c <= "~"), None)
    if strange is not None:
        raise DataError(
            f"{file}, line {line}: the character {strange!r} (U+{ord(strange):04X}) is unknown; "
            "letters, digits and punctuation were expected. Correct the line."
        )
    words = _WORD.findall(plain)
    if not words:
        raise DataError(f"{file}, line {line}: the line is empty; a caption was expected.")
    return words


def learn_vocabulary(captions: Iterable[Sequence[str]], occurrences: int) -> tuple[str, ...]:
    """The special tokens, then every word that occurs often enough, the most frequent first.

    Args:
        captions: Words of the training captions, and of no others.
        occurrences: Least number of times that a word must occur.
    """
    counts = Counter(word for caption in captions for word in caption)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (PAD, END, UNKNOWN, *(word for word, count in ranked if count >= occurrences))


def encode(captions: Sequence[Sequence[str]], vocabulary: Sequence[str], length: int) -> np.ndarray:
    """Captions as token ids, each cut to `length` - 1 words, then its end, then padding.

    Args:
        captions: Words of each.
        vocabulary: Tokens in the order of their ids; a word that is none counts as unknown.
        length: Tokens a caption.

    Returns:
        `[N, length]`, uint8 where the vocabulary permits, else int64.
    """
    number = {word: i for i, word in enumerate(vocabulary)}
    kind = np.uint8 if len(vocabulary) <= 256 else np.int64
    tokens = np.full((len(captions), length), number[PAD], kind)
    for row, words in zip(tokens, captions, strict=True):
        kept = [number[w] if w in number else number[UNKNOWN] for w in words[: length - 1]]
        row[: len(kept)] = kept
        row[len(kept)] = number[END]
    return tokens
