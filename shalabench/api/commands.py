"""Command lines that messages, cards and records show. Free of torch."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any


def command_line(start: str, options: Mapping[str, Any]) -> str:
    """A command line, quoted for a shell.

    Args:
        start: Program and command, such as "shala-bench run".
        options: Values by the name of the option. A list or tuple repeats its option, and an option
            with None or an empty text is left out.
    """
    words = start.split()
    for name, value in options.items():
        each = value if isinstance(value, list | tuple) else [value]
        words += [word for x in each if x not in (None, "") for word in (f"--{name}", str(x))]
    return shlex.join(words)
