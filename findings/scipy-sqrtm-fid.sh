#!/usr/bin/env bash
# SciPy 1.18 removed the argument `disp` of scipy.linalg.sqrtm. FID in pytorch-fid 0.3.0, clean-fid 0.1.35,
# multivae 1.0.3 and monai 1.6.1 passes disp=False, which SciPy 1.18 does not accept; none of them bounds
# SciPy's version. SciPy 1.18 needs Python 3.12: with Python 3.11, pip installs 1.17, which only warns.
# This matters where FIDs of this project are compared with theirs (docs/reproduction/metrics.md). Here,
# torch-fidelity computes FID, without sqrtm.
# The script reads SciPy 1.18's signature from its wheel, since it may run on Python 3.11. With Python 3.12 or
# newer, it also calls pytorch-fid.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip="$work/venv/bin/pip"
for wheel in pytorch-fid==0.3.0 clean-fid==0.1.35 multivae==1.0.3 monai==1.6.1; do
  "$pip" download --quiet --no-deps --only-binary :all: --dest "$work/wheels" "$wheel" 2> /dev/null
done
"$pip" download --quiet --no-deps --only-binary :all: --python-version 3.12 --dest "$work/wheels" \
  scipy==1.18.1 2> /dev/null
"$work/venv/bin/python" - "$work/wheels" << 'END'
import ast
import sys
import zipfile
from pathlib import Path


def trees(wheel, wanted):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(".py") and wanted(name):
                yield ast.parse(archive.read(name))


def calls(wheel):
    """The keywords of all calls of sqrtm in a package."""
    for tree in trees(wheel, lambda name: "fid" in name):
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sqrtm"):
                yield from (k.arg for k in node.keywords)


wheels = {p.name.split("-")[0]: p for p in Path(sys.argv[1]).iterdir()}
functions = [
    node
    for tree in trees(wheels["scipy"], lambda name: name.endswith("linalg/_matfuncs.py"))
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and node.name == "sqrtm"
]
accepted = [a.arg for a in functions[0].args.args]
print(f"{wheels['scipy'].name}: sqrtm takes {accepted}")
assert accepted == ["A"], "sqrtm takes more again."
for name in ("pytorch_fid", "clean_fid", "multivae", "monai"):
    passed = set(calls(wheels[name]))
    print(f"{wheels[name].name}: sqrtm is passed {sorted(passed)}")
    assert "disp" in passed, f"{name} no longer passes disp."
END
if ! "$work/venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then
  echo "Python is older than 3.12: SciPy 1.18 is not run."
  exit
fi
"$pip" install --quiet scipy==1.18.1 pytorch-fid==0.3.0
"$work/venv/bin/python" - << 'END'
import numpy as np
from pytorch_fid.fid_score import calculate_frechet_distance

try:
    calculate_frechet_distance(np.zeros(3), np.eye(3), np.ones(3), np.eye(3))
except TypeError as error:
    print("pytorch-fid:", error)
else:
    raise AssertionError("pytorch-fid works with SciPy 1.18.")
END
