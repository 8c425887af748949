"""What a person sees while a run works: a live bar in a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from reslab.learning.state import Milestone, Step
from reslab.pictures.reading import Item

_PLAIN_EVERY = 30.0  # seconds between lines within a long epoch


class Display:
    """Shows progress on standard error; `quiet` shows only what goes wrong, `silent` nothing."""

    def __init__(self, *, quiet: bool = False, silent: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=silent)
        self.quiet = quiet or silent
        self._bar: Progress | None = None
        self._task: Any = None
        self._epochs: Callable[[], float] = float
        self._clock: list[tuple[float, int]] = []
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(Text(text))

    def warn(self, text: str) -> None:
        """Said even when quiet: the user would otherwise be misled."""
        self.console.print(Text(f"note: {text}", style="yellow"))

    def track(self, items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
        """The items again, with a bar if there are enough of them to wait for."""
        if self.quiet or not self.console.is_terminal or total < 500:
            return items
        return self._tracked(items, what, total)

    def _tracked(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        with self._counting_bar() as bar:
            yield from bar.track(items, total=total, description=what)

    def _counting_bar(self) -> Progress:
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(),
        ]
        return Progress(*columns, console=self.console, transient=True, expand=True)

    def counted(self, counts: Iterable[int], what: str, total: int) -> Iterator[int]:
        """The counts again, while a bar or a line now and then shows how far their sum has come."""
        if self.quiet or not total:
            yield from counts
            return
        done, started, shown = 0, time.monotonic(), time.monotonic()
        if self.console.is_terminal:
            with self._counting_bar() as bar:
                task = bar.add_task(what, total=total)
                for count in counts:
                    bar.update(task, advance=count)
                    yield count
            return
        for count in counts:
            done += count
            if (now := time.monotonic()) - shown > _PLAIN_EVERY:
                shown = now
                left = _duration((now - started) / done * (total - done))
                self.say(f"{what}  {done:,}/{total:,}  {left} left")
            yield count

    @contextmanager
    def training(self, epochs: Callable[[], float], steps: int, done: int) -> Iterator[None]:
        """Show steps and milestones inside the block; `done` steps were made before.

        epochs: says how many there will be, as far as that is known by now.
        """
        self._epochs = epochs
        self._clock = [(time.monotonic(), 0)]
        self._shown = time.monotonic()
        if self.quiet or not self.console.is_terminal:
            yield
            return
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
        ]
        with Progress(*columns, console=self.console, transient=True, expand=True) as bar:
            self._bar = bar
            self._task = bar.add_task("starting", total=epochs() * steps, completed=done, text="")
            try:
                yield
            finally:
                self._bar = None

    def step(self, event: Step) -> None:
        if self.quiet:
            return
        now = time.monotonic()
        self._clock.append((now, self._clock[-1][1] + event.pictures))
        if len(self._clock) > 50:
            del self._clock[0]
        (then, before), (_, after) = self._clock[0], self._clock[-1]
        rate = (after - before) / max(now - then, 1e-9)
        epochs = self._epochs()
        steps_left = (epochs - event.epoch) * event.steps - event.step - 1
        left = _duration(steps_left * event.pictures / rate)
        if self._bar is not None:
            numbers = f"loss {event.loss:.4f}  acc {event.accuracy:.1%}"
            self._bar.update(
                self._task,
                completed=event.epoch * event.steps + event.step + 1,
                total=epochs * event.steps,
                description=f"epoch {event.epoch} ({event.epoch + 1}/{math.ceil(epochs)})"
                f" batch {event.step + 1}/{event.steps}",
                text=f"{numbers}  {rate:,.0f} pictures/s  {left} left",
            )
        elif now - self._shown > _PLAIN_EVERY:
            self._shown = now
            self.say(
                f"epoch {event.epoch}  batch {event.step + 1}/{event.steps}"
                f"  loss {event.loss:.4f}  accuracy {event.accuracy:.2%}"
                f"  {rate:,.0f} pictures/s  {left} left"
            )

    def milestone(self, event: Milestone, number: int) -> None:
        """Show an epoch, or a strength of a solved head; `number` counts them from 0."""
        self._shown = time.monotonic()
        record = event.record
        which = f"{number + 1}/{math.ceil(self._epochs())}"
        if "strength" in record:
            parts = [f"strength {record['strength']:.3g} ({which})"]
        else:
            parts = [f"epoch {record['epoch']} ({which})"]
        for split in ("train", "validation", "test"):
            if f"{split}_loss" in record:
                loss, accuracy = record[f"{split}_loss"], record[f"{split}_accuracy"]
                watched = " (watched)" if split == "test" else ""
                parts.append(f"{split}{watched} loss {loss:.4f} accuracy {accuracy:.2%}")
        parts.append(f"{record['seconds']:.1f} s" + ("  best so far" if event.best else ""))
        self.say("  ".join(parts))


def _duration(seconds: float) -> str:
    """Such as 0:45, 12:30 or 5:01:00."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
