"""MNIST-SVHN-Text's modalities (reproduction/mnist-svhn-text.md), and its text.

A text is the name of a digit at a random position in a line of eight letters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from shalabench.api import DataError, Modality

LENGTH = 8
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The published alphabet: 71 entries, "-" twice, the second of which no text uses.
ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&*~`+-=<>()[]{} \n")
_VALUES = 3 * 32 * 32  # weights make up for modalities with fewer values than SVHN has
_LONGEST = LENGTH - 1  # the published start is at most 7 - len(word): the last letter stays blank


def describe_modalities(text_likelihood: str) -> tuple[Modality, ...]:
    """The modalities "mnist", "svhn" and "text".

    Args:
        text_likelihood: A name in `shalabench.nets.likelihoods` for texts.
    """
    return (
        Modality("mnist", "image", (1, 28, 28), "laplace", scale=0.75, weight=_VALUES / (28 * 28)),
        Modality("svhn", "image", (3, 32, 32), "laplace", scale=0.75),
        Modality("text", "text", (LENGTH,), text_likelihood, 0.75, _VALUES / LENGTH, ALPHABET),
    )


def write_words(labels: np.ndarray, words: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Write each label's word from a random start into blanks.

    Args:
        labels: `[N]`, numbers of the words.
        words: One a class, of at most seven letters of the alphabet.
        rng: Chooses the starts.

    Returns:
        Token ids uint8 `[N, 8]`.

    Raises:
        DataError: A word is too long, empty, or has a letter that the alphabet lacks.
    """
    for number, word in enumerate(words):
        _check(number, word)
    lengths = np.array([len(word) for word in words])
    padded = np.array([[ALPHABET.index(c) for c in word.ljust(LENGTH)] for word in words])
    start = rng.integers(LENGTH - lengths[labels])  # 0 .. 7 - length
    letter = np.arange(LENGTH) - start[:, None]  # [N, 8], number of the letter within the word
    written = (letter >= 0) & (letter < lengths[labels][:, None])
    letters = np.take_along_axis(padded[labels], letter.clip(0, LENGTH - 1), 1)
    return np.where(written, letters, ALPHABET.index(" ")).astype(np.uint8)


def _check(number: int, word: str) -> None:
    if not 1 <= len(word) <= _LONGEST:
        raise DataError(
            f"data.words has {json.dumps(word, ensure_ascii=False)} for the digit {number}; 1 to "
            f"{_LONGEST} letters were expected. Shorten it."
        )
    for position, letter in enumerate(word):
        if letter not in ALPHABET:
            raise DataError(
                f"data.words has the unknown character '{letter}' at position {position + 1} of "
                f"'{word}', the word for the digit {number}. The alphabet is "
                f"{json.dumps(''.join(ALPHABET))}; write the word with these."
            )
