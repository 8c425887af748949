"""How fast pictures are judged, and which of the validation pictures there is time for."""

import time

import torch

from reslab.networks.folding import folded
from reslab.networks.inference import as_input
from reslab.networks.measuring import measure
from reslab.training.anytime.clock import Clock
from reslab.training.anytime.work import Work, pictures_at_once

JUDGING_SHARE = 0.2  # of the time that judging once by all validation pictures may take
SAMPLE_SHARE = 0.1  # the same of a sample of them, where all would take longer
SLOW = 2e10  # multiply-adds a second of two slow cores, at which it pays to measure the rate first
LEAST_JUDGED = 50  # validation pictures, whatever time they take
TOGETHER = 512  # pictures at most, by which the rate of judging is measured


def choose_judges(work: Work, clock: Clock) -> None:
    """Let as many validation pictures choose as there is time for, if not all.

    The end judges by them once more, over all views that the model averages.
    """
    count = work.base.pictures.counts()["validation"]
    if count <= LEAST_JUDGED or work.plan.judged is not None:
        return
    seconds = count * measure(work.base.network, work.base.spec).multiply_adds / SLOW
    if clock.views * seconds < JUDGING_SHARE * clock.left:
        return
    measure_rate(work, clock)
    possible = clock.left * (clock.rate or 0.0) / clock.views
    if count > JUDGING_SHARE * possible:
        work.judge_by(max(int(SAMPLE_SHARE * possible), LEAST_JUDGED))


def measure_rate(work: Work, clock: Clock) -> None:
    """Learn the rate of judging by training pictures, where cached features said nothing."""
    at_once = min(pictures_at_once(work.base.preprocessing.size), TOGETHER)
    count = len(work.base.pixels.samples)
    rows = torch.arange(min(at_once, count))
    example = as_input(work.base.pixels.inputs(rows[:1], epoch=0), work.device)
    network = folded(work.base.network, example)  # as the end computes
    for _ in range(2):  # the first pass sets things up
        started = time.perf_counter()
        x = work.base.pixels.inputs(rows, epoch=0)
        with torch.inference_mode():
            network(as_input(x, work.device))
        clock.note_rate(len(rows), time.perf_counter() - started)
        rows = (rows + len(rows)) % count  # the same ones are in memory now
