"""How many steps a training makes, and where each stands on its schedule, when a clock decides."""

from collections.abc import Iterable

Turn = tuple[int, int]  # (step, end): from this step on, the training ends before the step `end`


class Pace:
    """Steps from the first turn's to the last turn's end, counted over all epochs of a run.

    The schedule is as long as the first turn says. A later turn moves the end: what is left of the
    schedule is spread evenly over the steps that are left then. So the turns alone say at which
    rate each step was made, and the same turns give the same training again.
    """

    def __init__(self, turns: Iterable[Turn]) -> None:
        self.turns = list(turns)

    @property
    def first(self) -> int:
        return self.turns[0][0]

    @property
    def end(self) -> int:
        return self.turns[-1][1]

    @property
    def length(self) -> int:
        """Steps of the schedule."""
        return self.turns[0][1] - self.first

    def turn(self, step: int, end: int) -> None:
        """From a step on that is still to be made, end before another."""
        if step == self.turns[-1][0]:
            self.turns.pop()
        self.turns.append((step, max(step, end)))

    def cut(self, step: int) -> None:
        """Forget turns that came after a step, to which a stopped training has gone back."""
        self.turns[:] = [turn for turn in self.turns if turn[0] <= step] or self.turns[:1]

    def stop_at(self, step: int) -> None:
        """Let this have been the end, whatever was to come after it."""
        self.turns[:] = [turn for turn in self.turns if turn[0] < step]
        self.turns.append((step, step))

    def place(self, step: int) -> float:
        """Where a step stands on the schedule, from 0 to below `length`."""
        place, length = 0.0, self.length
        starts = [start for start, _ in self.turns[1:]] + [step]
        for (start, end), until in zip(self.turns, starts, strict=True):
            pace = (length - place) / (end - start) if end > start else 0.0
            place += pace * (min(until, step) - start)
            if until >= step:
                break
        return place
