"""Components of other packages, and digests of components' code."""

import sys
from pathlib import Path

import pytest

from shalabench.api import BenchError, registry
from shalabench.api.registry import broken, entries, find, source_digest

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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package of some modules with entry points, and forget what is registered."""

    def install_package(group: str, **modules: str) -> None:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        info = tmp_path / "more_components-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: more-components\nVersion: 1.0\n"
        )
        lines = "".join(f"{name} = {name}\n" for name in modules)
        (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
        monkeypatch.syspath_prepend(str(tmp_path))

    for kind in ("model", "dataset", "evaluator"):
        entries(kind)
    kept = {name: value.copy() for name, value in vars(registry).items() if name in _STATE}
    for name, value in kept.items():
        monkeypatch.setattr(registry, name, value)
    monkeypatch.setattr(registry, "_broken", {kind: {} for kind in registry.PACKAGES})
    registry._discovered.clear()
    modules = set(sys.modules)
    yield install_package
    for name in set(sys.modules) - modules:
        if name.startswith("more_"):
            del sys.modules[name]


_STATE = ("_entries", "_clashes", "_discovered")
MODEL = """
from shalabench.api import Model, register_model

@register_model("{name}", paper="", version=1)
class Elsewhere(Model):
    pass
"""
DATASET = """
from shalabench.api import Dataset, register_dataset

@register_dataset("elsewhere", version=3)
class Elsewhere(Dataset):
    pass
"""
EVALUATOR = """
from shalabench.api import Evaluator, register_evaluator

@register_evaluator("elsewhere", version=2)
class Elsewhere(Evaluator):
    pass
"""


@pytest.mark.parametrize(
    ("kind", "code"),
    [("model", MODEL.format(name="elsewhere")), ("dataset", DATASET), ("evaluator", EVALUATOR)],
)
def test_components_of_other_packages_register_by_entry_points(install, kind, code):
    install(f"shalabench.{kind}s", more_a=code)
    entry = find(kind, "elsewhere")
    assert (entry.kind, entry.cls.__module__) == (kind, "more_a")
    assert entry.digest.startswith("v2:")
    assert len(entries(kind)) > 1


def test_an_entry_point_that_does_not_import_is_broken_and_the_others_go_on(install):
    install("shalabench.models", more_a="1 / 0", more_b=MODEL.format(name="elsewhere"))
    assert find("model", "elsewhere")
    (item,) = broken("model")
    assert item.module == "more_a"
    assert item.reason.startswith("ZeroDivisionError")


def test_a_name_that_two_packages_register_is_an_error_that_names_both(install):
    install("shalabench.models", more_a=MODEL.format(name="shala"))
    with pytest.raises(BenchError) as caught:
        find("model", "shala")
    assert "shala.model.ShaLa" in str(caught.value)
    assert "more_a.Elsewhere" in str(caught.value)
    assert [item.module for item in broken("model")] == ["more_a"]
    assert find("model", "mvae")
