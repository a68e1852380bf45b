"""Progress bars for people, lines for logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from robot_rl.trainers.loop import ProgressTask


class _Bar:
    def __init__(self, progress: Progress, name: str, total: int) -> None:
        self._progress, self._id = progress, progress.add_task(name, total=total, text="")

    def update(self, completed: int, text: str = "") -> None:
        self._progress.update(self._id, completed=completed)
        if text:
            self._progress.update(self._id, text=text)


class _Lines:
    """One line every ten seconds, where the output is a file."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def update(self, completed: int, text: str = "") -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = completed
        if now - self._said < 10 and completed < self._total:
            return
        self._said = now
        rate = (completed - self._first) / max(now - self._started, 1e-9)
        left = f"{(self._total - completed) / rate:.0f} s left" if rate > 0 else "?"
        print(f"{self._name}: {completed}/{self._total}, {left}  {text}", flush=True)


class TerminalProgress:
    """Bars with an estimate of what is left on a terminal, plain lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console()

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[ProgressTask]:
        if not sys.stdout.isatty():
            yield _Lines(name, total)
            return
        columns = (
            TextColumn("{task.description:>12}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self._console) as progress:
            yield _Bar(progress, name, total)
