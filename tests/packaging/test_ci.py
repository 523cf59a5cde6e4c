"""The blocks of the README that CI runs are there, and its scripts parse."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("heading", re.findall(r"^readme '(.+)'$", CI, flags=re.M))
def test_the_readme_has_the_blocks_that_ci_runs(heading):
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    assert "```bash\n" in section.partition("\n## ")[0]


@pytest.mark.parametrize("script", ["run", "package"])
def test_the_scripts_parse(script):
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / script)], check=True)
