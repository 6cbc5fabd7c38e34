"""Progress of a build: bars on a terminal, one plain line a stage anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int, str], None]  # (done, total, note)

_PATIENCE = 15.0  # seconds without a line that a long stage may take in a log


class Stages:
    """Stages of a build, one after the other, on ``console``; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._name = self._note = ""
        self._began = self._said = 0.0

    def begin(self, name: str) -> Advance:
        """End the stage before and begin this one; call what is returned as it gets on."""
        self._end()
        task = self._bars.add_task(name, total=None, note="")
        self._name, self._note = name, ""
        self._began = self._said = time.monotonic()

        def advance(done: int, total: int, note: str = "") -> None:
            self._bars.update(task, completed=done, total=total, note=note)
            self._note = note
            if time.monotonic() - self._said > _PATIENCE:
                self._line(f"{name}: {note}" if note else f"{name}: {done} of {total}")

        return advance

    def _end(self) -> None:
        if self._name:
            note = f"{self._note}, " if self._note else ""
            self._line(f"{self._name}: {note}{time.monotonic() - self._began:.1f} s")

    def _line(self, text: str) -> None:
        self._said = time.monotonic()
        if not self._console.is_terminal:
            self._console.print(f"n730c: {text}", markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Stages:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._end()
        self._bars.stop()
