"""Sphinx configuration. Build with `sphinx-build -W -b html docs docs/_build`."""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "shala-bench"
author = "the shala-bench contributors"
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "shala-bench"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
autosummary_generate = False
napoleon_google_docstring = True
napoleon_use_ivar = True


def _as_markup(app, what, name, obj, options, lines):
    """Read docstrings as Markdown: single backquotes are code, and bars are bars."""
    for number, line in enumerate(lines):
        parts = re.split(r"(?<![:`\w])`([^`<>]+)`(?![`_])", line)
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[number] = "".join(f"``{x}``" if odd % 2 else x for odd, x in enumerate(parts))


def setup(app):
    """Register the docstring filter."""
    app.connect("autodoc-process-docstring", _as_markup, priority=900)
