"""MST's third modality: a digit's name somewhere in a line of eight letters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from shalabench.api import DataError, Modality

LENGTH = 8
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# The published alphabet: 71 entries, "-" twice, the second of which no text uses.
ALPHABET = tuple("abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"\\/|_@#$%^&*~`+-=<>()[]{} \n")
_LONGEST = LENGTH - 1  # the published start is at most 7 - len(word): the last letter stays blank


def describe_words(weight: float, likelihood: str) -> Modality:
    """The modality "text".

    Args:
        weight: Factor of its log-likelihood.
        likelihood: A name in `shalabench.nets.likelihoods` for texts.
    """
    return Modality("text", "text", (LENGTH,), likelihood, weight=weight, vocabulary=ALPHABET)


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
    tokens = [_tokens(number, word) for number, word in enumerate(words)]
    lengths = np.array([len(own) for own in tokens])
    padded = np.zeros((len(words), LENGTH), np.uint8)
    for row, own in zip(padded, tokens, strict=True):
        row[: len(own)] = own
    start = rng.integers(LENGTH - lengths[labels])  # 0 .. 7 - length
    place = np.arange(LENGTH) - start[:, None]  # [N, 8], which letter of the word is there
    written = (place >= 0) & (place < lengths[labels][:, None])
    letters = np.take_along_axis(padded[labels], place.clip(0, LENGTH - 1), 1)
    return np.where(written, letters, ALPHABET.index(" ")).astype(np.uint8)


def _tokens(number: int, word: str) -> list[int]:
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
    return [ALPHABET.index(letter) for letter in word]
