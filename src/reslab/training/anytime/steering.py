"""How a stage is kept within its time, step after step."""

import time

from reslab.learning.pace import Pace
from reslab.learning.state import Milestone, Step
from reslab.training.anytime.clock import Clock, StepTimes
from reslab.training.anytime.work import Work
from reslab.training.session import Session

SAVE_EVERY = 20.0  # seconds between checkpoints within an epoch
SETTLED = 3  # steps before their time is believed
NEAR = 5  # steps before the end, where each correction counts
TELLING = 50  # pictures, by whose judging the rate is known
JUDGING = 1.2  # passes that one of a network that trains takes, as long as none was measured


class Steering:
    """Keeps a stage within the time: moves the end of its pace by what steps were measured to take.

    most: the step before which it ends though there were time for more.
    """

    def __init__(self, work: Work, session: Session, pace: Pace, most: int, steps: int) -> None:
        self._work = work
        self._session = session
        self._pace = pace
        self._most = most
        self._steps = steps
        self._times = StepTimes()
        stage = work.plan.stages[session.stage or 0]
        self._until: float | None = None
        self._judging = 0.0
        self._validation = len(session.prepared.pictures.splits.get("validation", ()))
        if work.clock is not None:
            if stage.share is not None:
                self._until = time.perf_counter() + stage.share * work.clock.left_to_learn
            if session.prepared.cut is None:  # where it wins, validation is to be judged again
                work.clock.validated = False
            if work.clock.rate:
                self._judging = JUDGING * self._validation / work.clock.rate
        self._saved = time.perf_counter()

    def after(self, event: Step | Milestone) -> None:
        """Look at the clock after each step and milestone; save what would be a pity to lose."""
        work, progress = self._work, self._work.progress
        count = progress.epoch * self._steps + progress.step
        reached = isinstance(event, Milestone)
        if isinstance(event, Milestone):
            self._judging = self._times.other()
            whole = self._session.prepared.cut is None  # features pass faster than pictures
            if work.clock is not None and whole and self._validation >= TELLING:
                work.clock.note_rate(self._validation, event.record["evaluate_seconds"] or 0.0)
                self._times.forget_slowness()
        else:
            self._times.step()
        if work.interrupted:
            self._session.state.refuse_diverged()
            self._session.save()
            raise self._session.interrupted(work.caught[0])
        if count < self._pace.end and work.caught:
            self._pace.turn(count, count)
        elif count < self._pace.end and work.clock is not None and len(self._times) >= SETTLED:
            self._keep_time(work.clock, count, often=reached)
        if time.perf_counter() - self._saved > SAVE_EVERY:
            self._session.state.refuse_diverged()
            self._session.save()
            self._saved = time.perf_counter()
            self._times.other()

    def _keep_time(self, clock: Clock, count: int, *, often: bool) -> None:
        clock.slower = self._times.slower
        left = clock.left_to_learn
        if self._until is not None:
            left = min(left, self._until - time.perf_counter())
        left -= self._judging
        possible = max(0, int(left / (self._times.mean + self._judging / self._steps)))
        end = min(self._most, count + possible)
        ahead, planned = end - count, self._pace.end - count
        first = len(self._pace.turns) == 1
        # Small corrections wait for a milestone, unless the end is near and would be late.
        if ahead < planned:
            due = ahead < NEAR or ahead < (0.98 if often else 0.95) * planned
        else:
            due = ahead > (1.02 if often else 1.1) * planned
        if first or due:
            self._pace.turn(count, end)
