"""Digests of components' code."""

from pathlib import Path

import pytest

from shalabench.api.registry import source_digest

CODE = '''"""What the file is."""

import math
from somewhere import Model, register_model, setting


class Config:
    width: int = setting(3, "Width of it.", "a paper", ge=1)


@register_model("it", paper="Me 2020", version=1)
class It(Model):
    """What the class is."""

    def run(self, x):
        if x < 0:
            raise ValueError(f"{x} is negative.")
        return math.sqrt(x)  # a comment
'''


def _digest(folder: Path, **files: str) -> str:
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return source_digest(folder / f"{name}.py" for name in files)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What the file is.", "Other words."),
        ('    """What the class is."""\n', ""),
        ("import math\n", ""),
        ("from somewhere", "from elsewhere.entirely"),
        ('"Width of it.", "a paper"', 'meaning="How wide.", source="another paper"'),
        ("Me 2020", "You 2021"),
        (" is negative.", " is below zero."),
        ("  # a comment", ""),
    ],
)
def test_a_source_digest_does_not_see_words_and_moves(tmp_path, old, new):
    assert old in CODE
    assert _digest(tmp_path / "a", it=CODE) == _digest(tmp_path / "b", it=CODE.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("setting(3", "setting(4"),
        ("ge=1", "ge=2"),
        ("version=1", "version=2"),
        ("math.sqrt", "math.log"),
        ("x < 0", "x <= 0"),
        ('"it"', '"that"'),
    ],
)
def test_a_source_digest_sees_what_is_computed(tmp_path, old, new):
    assert old in CODE
    assert _digest(tmp_path / "a", it=CODE) != _digest(tmp_path / "b", it=CODE.replace(old, new))


def test_a_source_digest_survives_new_names_and_a_split_of_files(tmp_path):
    whole = _digest(tmp_path / "a", it=CODE)
    first, second = CODE.split("\n\n@register_model")
    assert whole.startswith("v2:")
    assert whole == _digest(tmp_path / "b", zz=first, aa="@register_model" + second)
