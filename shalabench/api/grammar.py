"""A grammar that writes captions of known attributes, and reads the attributes back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

_PIECE = re.compile(r"<(?P<rule>[a-z]+)>|\[(?P<slot>[a-z]+)(?::(?P<only>[a-z-]+))?\]|(?P<word>\S+)")
_TRIES = 1000  # a handful suffices for a caption that fits


class Draws(Protocol):
    """The part of numpy's random generator that a grammar needs."""

    def integers(self, high: int) -> int:
        """A whole number from 0 to `high` - 1."""
        ...


@dataclass(frozen=True)
class Attribute:
    """One thing that a caption can name.

    Attributes:
        name: Name, such as "crown".
        values: Its values, one word each, without duplicates.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Grammar:
    """A finite grammar whose captions name attributes.

    An alternative of a rule is written as words separated by spaces: `<rule>` stands for any
    alternative of that rule, `[crown]` for the crown's value, `[background:sky]` for the word "sky"
    where that is the background. No rule may lead back to itself. "a" becomes "an" before a vowel.

    Attributes:
        attributes: What can be named, in the order of the value columns of `Split.facts`.
        rules: (name, alternatives) each; the first one is the whole caption.
        longest: Largest number of words in a caption.
    """

    attributes: tuple[Attribute, ...]
    rules: tuple[tuple[str, tuple[str, ...]], ...]
    longest: int

    @classmethod
    def from_text(cls, attributes: tuple[Attribute, ...], text: str, longest: int) -> Grammar:
        """A grammar whose rules are written as `name = alternative | alternative`.

        A rule begins a line; indented lines continue it.
        """
        rules = (rule.partition(" = ") for rule in re.split(r"\n(?=\S)", text.strip()))
        read = ((name, [a.split() for a in options.split("|")]) for name, _, options in rules)
        return cls(attributes, tuple((n, tuple(map(" ".join, o))) for n, o in read), longest)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word that a caption can have, sorted."""
        words = {"a", "an"}
        for _, alternatives in self.rules:
            for piece in (p for text in alternatives for p in _PIECE.finditer(text)):
                words |= set(self._values(piece)) if piece["slot"] else {piece["word"] or "a"}
        return tuple(sorted(words))

    def write(self, truth: Mapping[str, str], rng: Draws) -> tuple[str, tuple[str, ...]]:
        """Write a caption.

        Args:
            truth: Value of every attribute.
            rng: Chooses the sentence and which attributes it names.

        Returns:
            The caption (words separated by spaces), and the names of the attributes that it names.
        """
        for _ in range(_TRIES):
            words: list[str] = []
            named: list[str] = []
            self._expand(self.rules[0][0], truth, rng, words, named)
            if len(set(named)) == len(named) and len(words) <= self.longest:
                return " ".join(_with_articles(words)), tuple(named)
        raise ValueError(f"The grammar has no caption of {self.longest} words for {dict(truth)}.")

    def parse(self, text: str) -> dict[str, str] | None:
        """The attributes that a caption names, or None if the grammar cannot write it.

        Args:
            text: Words separated by spaces.
        """
        words = text.split()
        if len(words) > self.longest or _with_articles(words) != words:
            return None
        match = self._whole[0].fullmatch(_plain(words))
        if not match:
            return None
        said = [(a, v) for a, v in zip(self._whole[1], match.groups(), strict=True) if v]
        return dict(said) if len({a for a, _ in said}) == len(said) else None

    def spot(self, text: str) -> dict[str, str | None]:
        """The attributes that phrases of a text name, even if the grammar cannot write all of it.

        A word that is a value of only one attribute is such a phrase. Other values count only as
        part of an alternative that names one attribute, without its leading article.

        Args:
            text: Words separated by spaces.

        Returns:
            Value by attribute; None if the text gives an attribute two values.
        """
        named: dict[str, str | None] = {}
        plain = _plain(text.split())
        for attribute, phrase in self._phrases:
            for value in phrase.findall(plain):
                before = named.setdefault(attribute, value)
                named[attribute] = value if before == value else None
        return named

    def _values(self, piece: re.Match[str]) -> tuple[str, ...]:
        values = {a.name: a.values for a in self.attributes}[piece["slot"]]
        return (piece["only"],) if piece["only"] else values

    def _expand(
        self, rule: str, truth: Mapping[str, str], rng: Draws, words: list[str], named: list[str]
    ) -> None:
        options = [text for text in dict(self.rules)[rule] if _holds(text, truth)]
        for piece in _PIECE.finditer(options[int(rng.integers(len(options)))]):
            if piece["rule"]:
                self._expand(piece["rule"], truth, rng, words, named)
            elif piece["slot"]:
                words.append(truth[piece["slot"]])
                named.append(piece["slot"])
            else:
                words.append(piece["word"])

    @cached_property
    def _whole(self) -> tuple[re.Pattern[str], list[str]]:
        """All captions as one pattern, and the attribute of each of its groups."""
        slots: list[str] = []
        return re.compile(self._pattern(self.rules[0][0], slots)), slots

    def _pattern(self, rule: str, slots: list[str]) -> str:
        options = []
        for text in dict(self.rules)[rule]:
            parts = []
            for piece in _PIECE.finditer(text):
                if piece["rule"]:
                    parts.append(self._pattern(piece["rule"], slots))
                elif piece["slot"]:
                    slots.append(piece["slot"])
                    parts.append(f"({_any(self._values(piece))})")
                else:
                    parts.append(re.escape(piece["word"]))
            options.append(" ".join(parts))
        return f"(?:{'|'.join(options)})"

    @cached_property
    def _phrases(self) -> list[tuple[str, re.Pattern[str]]]:
        return [(name, re.compile(rf"(?<!\S){p}(?!\S)")) for name, p in self._one_slot()]

    def _one_slot(self) -> Iterator[tuple[str, str]]:
        every = [value for attribute in self.attributes for value in attribute.values]
        for attribute in self.attributes:
            own = [value for value in attribute.values if every.count(value) == 1]
            if own:
                yield attribute.name, f"({_any(own)})"
        for text in (text for _, alternatives in self.rules for text in alternatives):
            pieces = list(_PIECE.finditer(text))
            slots = [piece["slot"] for piece in pieces if piece["slot"]]
            if len(slots) == 1 and not any(piece["rule"] for piece in pieces):
                parts = [
                    f"({_any(self._values(p))})" if p["slot"] else re.escape(p["word"])
                    for p in pieces
                ]
                yield slots[0], " ".join(parts[parts[0] == "a" :])


def _holds(text: str, truth: Mapping[str, str]) -> bool:
    fixed = [piece for piece in _PIECE.finditer(text) if piece["only"]]
    return all(truth[piece["slot"]] == piece["only"] for piece in fixed)


def _any(values: Sequence[str]) -> str:
    return "|".join(map(re.escape, values))


def _plain(words: Sequence[str]) -> str:
    return " ".join("a" if word == "an" else word for word in words)


def _with_articles(words: Sequence[str]) -> list[str]:
    """The words with "a" or "an" as the next word requires."""
    following = [*words, ""][1:]
    return [
        ("an" if after[:1] in tuple("aeiou") else "a") if word in ("a", "an") else word
        for word, after in zip(words, following, strict=True)
    ]
