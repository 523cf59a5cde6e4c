"""What a person sees while runs go on: live bars on a terminal, else a line a minute."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_EVERY = 60.0  # seconds between two lines of the same run


class _Console(Console):
    """A console that falls silent when its reader is gone; Rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Reporter:
    """Shows events; use it as a context. If nothing can be shown any more, the work goes on.

    Args:
        out: Where to; the standard error stream where None. A terminal gets bars.
    """

    def __init__(self, out: TextIO | None = None):
        self._console = _Console(file=out or sys.stderr, highlight=False)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._tasks: dict[tuple[str, str], Any] = {}
        self._shown: dict[tuple[str, str], float] = {}

    def __enter__(self) -> Reporter:
        if self._live:
            with self._unheard():
                self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with self._unheard():
                self._bars.stop()

    def say(self, text: str) -> None:
        """One line, now."""
        with self._unheard():
            self._console.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def _unheard(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # the terminal is gone, the disk is full, the file is closed
            self._console.quiet = True

    def show(self, key: str, event: dict[str, Any]) -> None:
        """One event of a run: progress is shown, anything else is said."""
        if event["kind"] == "progress":
            terms = "  ".join(f"{n} {v:.4g}" for n, v in list(event["terms"].items())[:4])
            note = f"{terms}  {event['rate']:.1f}/s"
            self._advance(key, event["stage"], event["step"], event["steps"], note)
        elif event["kind"] == "evaluating":
            self._advance(key, event["evaluator"], event["done"], event["total"], "")
        elif event["kind"] == "retried":
            self.say(f"{key}: its process died ({event['exit']}); started again.")
        else:
            self.say(f"{key}: {event['text']}")

    def _advance(self, key: str, phase: str, done: int, total: int, note: str) -> None:
        if self._live:
            if (key, phase) not in self._tasks:
                task = self._bars.add_task(f"{key} {phase}", total=total, note="")
                self._tasks[key, phase] = task
            with self._unheard():
                self._bars.update(
                    self._tasks[key, phase], completed=done, note=note, visible=done < total
                )
        elif time.monotonic() - self._shown.setdefault((key, phase), time.monotonic()) >= _EVERY:
            self._shown[key, phase] = time.monotonic()
            self.say(f"{key}: {phase} {done:,}/{total:,}  {note}".rstrip())
