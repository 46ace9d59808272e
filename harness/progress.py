"""Progress on stderr: what is running, how fast, and how long it will still take."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What the engine reports to. One unit is one forward pass of one image."""

    def begin(self, description: str, total: int) -> None:
        """A new stretch of work of ``total`` units."""
        ...

    def advance(self, units: int) -> None:
        """``units`` of it are done."""
        ...

    def note(self, text: str) -> None:
        """Something a person should know while it runs."""
        ...

    def end(self) -> None:
        """The stretch is over, whole or not."""
        ...


class NoProgress:
    """Says nothing."""

    def begin(self, description: str, total: int) -> None:
        """Nothing."""

    def advance(self, units: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""


class TextProgress(NoProgress):
    """Notes only, as plain lines: for logs, where a bar would be noise."""

    def note(self, text: str) -> None:
        """One line on stderr."""
        print(text, file=sys.stderr)


class BarProgress:
    """A bar with rate and time left, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def _new_bar(self) -> RichProgress:
        from rich import progress

        return progress.Progress(
            progress.SpinnerColumn(),
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("<"),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )

    def begin(self, description: str, total: int) -> None:
        """Show a new bar."""
        self.end()
        self._bar = self._new_bar()
        self._bar.start()
        self._task = self._bar.add_task(description, total=total, rate="")

    def advance(self, units: int) -> None:
        """Move the bar and show the rate in forward passes of one image per second."""
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, advance=units)
        speed = self._bar.tasks[0].finished_speed or self._bar.tasks[0].speed
        if speed:
            self._bar.update(self._task, rate=f"{speed:.1f}/s")

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, markup=False, highlight=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None


def default_progress(*, quiet: bool = False) -> Progress:
    """A bar where stderr is a terminal, plain notes elsewhere, nothing where ``quiet``."""
    if quiet:
        return NoProgress()
    return BarProgress() if sys.stderr.isatty() else TextProgress()
