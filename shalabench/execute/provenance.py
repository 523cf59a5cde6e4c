"""Where a number comes from: code, packages, machine. Recorded, and no part of any identity."""

from __future__ import annotations

import ast
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from shalabench.api.registry import Entry, source_digest
from shalabench.records.locations import clone

_ROOT = Path(__file__).parent.parent.parent
_SHARED = ("shalabench.nets.", "shalabench.metrics.")
_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "scikit-image", "pillow", "pydantic")


def describe_code(entry: Entry) -> dict[str, Any]:
    """Commit of the checkout, and digests of the component's and the shared code."""
    digests = {"source": entry.digest, "nets": source_digest(shared_code(entry.files))}
    return describe_checkout() | digests


def describe_priors() -> dict[str, str]:
    """Digest of the code that fits priors, and of the shared code that it imports."""
    files = sorted((_ROOT / "shalabench" / "priors").glob("*.py"))
    return {"priors": source_digest([*files, *shared_code(files)])}


def describe_checkout() -> dict[str, Any]:
    """Commit, empty outside of git, and whether files differ from it."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def shared_code(files: Iterable[Path]) -> list[Path]:
    """The files of `nets` and `metrics` that some files import, also through one another."""
    shared: set[Path] = set()
    waiting = list(files)
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        for module in {module for node in ast.walk(tree) for module in _imported(node)}:
            file = _ROOT / f"{module.replace('.', '/')}.py"
            if module.startswith(_SHARED) and file.is_file() and file not in shared:
                shared.add(file)
                waiting.append(file)
    return sorted(shared)


def _imported(node: ast.AST) -> list[str]:
    """Dotted names that an import statement may take modules from; none for other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Python, packages, device and threads."""
    cuda = device.type == "cuda"
    found = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.machine(),
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "threads": torch.get_num_threads(),
    }
    return found | ({"arithmetic": _arithmetic()} if cuda else {})


def _arithmetic() -> dict[str, bool]:
    """Torch's settings by which a GPU's results differ in their last digits; `train.tf32` aside."""
    cudnn = torch.backends.cudnn
    return {
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn_tf32": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "cudnn_deterministic": cudnn.deterministic,
    }


def describe_history(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What a run's events say of its training: interruptions, and what it took from other runs."""
    found: dict[str, Any] = {"resumptions": 0}
    for event in events:
        facts = {key: value for key, value in event.items() if key not in ("time", "kind")}
        if event["kind"] == "resumed":
            found["resumptions"] += 1
        elif event["kind"] in ("reused", "continued"):
            found[event["kind"]] = facts
        elif event["kind"] == "changed":  # the code or the machine, between two attempts
            found["mixed"] = sorted({*found.get("mixed", ()), *event["what"]})
    return found


def peak_memory(device: torch.device) -> int:
    """Bytes at most in use so far: on the GPU, or of the whole process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _git(*arguments: str) -> str:
    if clone() is None:  # an installed package may lie within the repository of another project
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
