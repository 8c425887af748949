"""The time a training has: when it ends, what the ending takes, what a step takes."""

import math
import time
from collections import deque

MARGIN = 2.2  # seconds before the time is up by which all is to be done
HARD = 1.2  # seconds before it at which a command leaves: on a busy machine even that takes time
SOLVING = 5.0  # seconds that solving a head on some thousand pictures and judging it take
FILES = 0.7  # seconds that the model, the scores and the predictions take, until measured
SHOWN = 2.0  # the same of the curves and the report, which are made if there is time
CAUTION = 1.3  # times what curves and report took when they were tried
MAPS = 48  # pictures that pass in the time that 12 explanations take
SAFETY = 1.15  # times the measured rate of judging; a test split that is then not through is cut
SCORING_SHARE = 0.4  # of the time that scoring the test split may take
SAMPLE_SHARE = 0.2  # the same of a sample of it, where all of it would take longer
LEAST_SCORED = 0.1, 400  # of the test split, and pictures; with less of both there is no score
RECENT = 24  # steps that a pace is measured over


def before_the_end(of: float, seconds: float) -> float:
    """How long before the time is up, which is `seconds`: less where there is hardly any."""
    return min(of, seconds * of / 25)


def least_scored(pictures: int) -> int:
    """How many pictures of a split with so many must be scored for there to be a score."""
    share, most = LEAST_SCORED
    return min(most, math.ceil(share * pictures))


class Clock:
    """Counts down to the moment when the command must have ended.

    began: when the time began to count, by time.perf_counter(). seconds: how long it is. before:
    seconds that were used earlier. test, validation: pictures that are judged at the end.
    views: of each of these that pass then. to_learn: seconds there were when the pictures had been
    read. files, curves, report: seconds that these take on this machine.
    """

    def __init__(self, began: float, seconds: float, before: float = 0.0) -> None:
        self.began = began
        self.seconds = seconds
        self.before = before
        self.test = self.validation = 0
        self.views = 1
        self.to_learn = seconds
        self.validated = True  # whether the best weights' features of the latter are there
        self.rate: float | None = None
        self.slower = 1.0  # times as slow as the machine was when the rate was measured
        self.rehearsed = False
        self.files = FILES
        self.curves = SHOWN / 3
        self.report = SHOWN - self.curves

    @property
    def used(self) -> float:
        return self.before + time.perf_counter() - self.began

    @property
    def left(self) -> float:
        """Seconds until all is to be done."""
        margin = before_the_end(MARGIN, self.seconds)
        return self.seconds + self.began - time.perf_counter() - margin

    @property
    def ending(self) -> float:
        """Seconds that scoring what is held out and writing the files will take."""
        return self.leaving + self._shown + SAFETY * self._scoring

    @property
    def after_test(self) -> float:
        """Seconds of the ending that come after the test split is scored."""
        return self.leaving + self._shown + SAFETY * self._judging_again

    @property
    def maps(self) -> float:
        """Seconds that it takes to explain some pictures."""
        return MAPS / self.rate if self.rate else 0.0

    @property
    def least_ending(self) -> float:
        """What the ending takes if all goes well."""
        return self.leaving + self._scoring

    @property
    def to_score(self) -> int:
        """How many of the test pictures: all, or a sample where these would take too long."""
        possible = self.to_learn / self._a_picture if self.rate else math.inf
        if self.test <= SCORING_SHARE * possible:
            return self.test
        return max(int(SAMPLE_SHARE * possible), least_scored(self.test))

    @property
    def _scoring(self) -> float:
        return self._judging_again + self.to_score * self._a_picture

    @property
    def _a_picture(self) -> float:
        """Seconds that judging a picture at the end takes, if that is known."""
        return self.slower * self.views / self.rate if self.rate else 0.0

    @property
    def _judging_again(self) -> float:
        judged = 0 if self.validated else self.validation
        return judged * self._a_picture

    @property
    def _shown(self) -> float:
        return CAUTION * self.slower * (self.curves + self.report + self.maps)

    @property
    def leaving(self) -> float:
        """What it takes to leave with a score that is there, or without one."""
        return 2 * self.slower * self.files

    @property
    def solving(self) -> float:
        """Seconds to keep for a head, while features for it are computed."""
        return self.slower * before_the_end(SOLVING, self.seconds)

    @property
    def left_to_learn(self) -> float:
        return self.left - self.ending

    def note_rate(self, pictures: int, seconds: float) -> None:
        """Learn at how many pictures a second a network judges them."""
        if pictures and seconds > 0:
            self.rate, self.slower = pictures / seconds, 1.0


class StepTimes:
    """Seconds a step takes, over the last ones, everything that happens between two included."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=RECENT)
        self._usual: float | None = None
        self._last = time.perf_counter()
        self._warm = False  # the first step sets up much that the others use

    def step(self) -> None:
        now = time.perf_counter()
        if self._warm:
            self._times.append(now - self._last)
        self._last, self._warm = now, True

    def other(self) -> float:
        """Seconds since the last step, for something that was none."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        return passed

    def forget_slowness(self) -> None:
        """Compare with what comes from now on."""
        self._usual = None

    @property
    def slower(self) -> float:
        """How many times as long as the first ones the last steps took, 1 or more."""
        if len(self._times) < RECENT // 2:
            return 1.0
        self._usual = min(self._usual or self.mean, self.mean)
        return self.mean / self._usual

    def __len__(self) -> int:
        return len(self._times)

    @property
    def mean(self) -> float:
        return sum(self._times) / len(self._times)
