"""The one queue of a server: pictures of all requests, decoded by threads, predicted in batches.

A picture waits, is decoded by one of as many threads as there are cores, waits again, and goes
through the network with whatever else is ready at that moment, up to a batch. Nothing waits for a
batch to fill. One thread alone uses the network.
"""

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch

from reslab.errors import InputError
from reslab.pictures.reading import keep_to_one_core
from reslab.using.classifier import BATCH, Classifier
from reslab.using.prediction import Explanation
from reslab.using.serving.limits import Limits, RefusedError
from reslab.using.serving.metrics import Metrics

_EXPLANATION = 8  # places that an explanation takes: a backward pass, alone
_FEW = 8  # pictures that a thread decodes between two looks at the queue
_WAIT_AT_MOST = 0.4  # of the deadline, as far as the speed so far tells

Answer = np.ndarray | Explanation | InputError | Exception


class _Job:
    """One picture on its way."""

    __slots__ = ("data", "number", "order", "pixels")

    def __init__(self, order: "Order", number: int, data: bytes) -> None:
        self.order = order
        self.number = number
        self.data = data
        self.pixels: torch.Tensor | InputError | Exception | None = None


class Order:
    """The pictures of one request and what came of them, in their order.

    answers: probabilities (classes,), or an Explanation; InputError for a picture that cannot be
        read, any other exception for a defect.
    """

    def __init__(self, pictures: Sequence[bytes], explain: bool, label: str | None) -> None:
        self.answers: list[Answer | None] = [None] * len(pictures)
        self.jobs = [_Job(self, number, data) for number, data in enumerate(pictures)]
        self.explain = explain
        self.label = label
        self.places = _EXPLANATION if explain else len(pictures)
        self.left = len(pictures)
        self.given_up = False
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()


class Desk:
    """Takes orders, keeps their number bounded, and answers each or none of an order's pictures."""

    def __init__(self, classifier: Classifier, limits: Limits, metrics: Metrics) -> None:
        self.limits = limits
        self.metrics = metrics
        self._classifier = classifier
        self._lock = threading.Lock()
        self._to_decode = threading.Condition(self._lock)
        self._to_predict = threading.Condition(self._lock)
        self._arrived: deque[_Job] = deque()
        self._ready: deque[_Job] = deque()
        self._places = 0
        self._held = 0
        self._each = 0.0  # seconds a place, as of late
        self._since = 0.0
        self._open = False
        self._until = math.inf
        self._decoding = 0
        self._threads: list[threading.Thread] = []

    @property
    def waiting(self) -> int:
        """Places that are taken: pictures accepted and not answered; an explanation takes 8."""
        return self._places

    @property
    def held(self) -> int:
        """Bytes of requests' bodies in memory."""
        return self._held

    @property
    def alive(self) -> bool:
        return self._open and all(thread.is_alive() for thread in self._threads)

    def open(self) -> None:
        """Start the threads, after one prediction and one explanation: the first take longest."""
        record = self._classifier.preprocessing
        blank = torch.zeros(record.channels, *record.size, dtype=torch.uint8)
        self._classifier.rows([blank])
        with suppress(InputError):  # not every network can be explained
            self._classifier.explain_pixels(blank)
        self._open = True
        decoders = [self._decode] * (os.cpu_count() or 1)
        self._decoding = len(decoders)
        for work in (*decoders, self._predict):
            thread = threading.Thread(target=work, name=f"reslab{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def take_until(self, moment: float) -> None:
        """Accept nothing any more after a moment, by time.monotonic()."""
        self._until = moment

    def close(self) -> None:
        """Answer what was accepted, then end the threads."""
        with self._lock:
            self._open = False
            self._to_decode.notify_all()
            self._to_predict.notify_all()
        for thread in self._threads:
            thread.join()

    def full(self, places: int = 1) -> bool:
        """Whether so many more would not be answered in time."""
        taken = self._places
        slow = taken * self._each > _WAIT_AT_MOST * self.limits.deadline
        return bool(taken) and (slow or taken + places > self.limits.waiting)

    def refuse_if_full(self, places: int = 1) -> None:
        """Raise RefusedError (503) where so many more would not be answered in time."""
        if self.full(places):
            self.metrics.refused["full"] += 1
            expected = _seconds(self._places * self._each)
            raise RefusedError(503, "the queue is full; try again later", expected)

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """Count bytes that a request keeps in memory, until the block ends.

        The function given raises RefusedError (503) where all requests together hold too many.
        """
        own = 0

        def add(count: int) -> None:
            nonlocal own
            if self._held + count > self.limits.held_bytes:
                self.metrics.refused["memory"] += 1
                raise RefusedError(503, "too many pictures are being sent; try again later", 1)
            self._held += count
            own += count

        try:
            yield add
        finally:
            self._held -= own

    def take(
        self, pictures: Sequence[bytes], explain: bool = False, label: str | None = None
    ) -> Order:
        """Accept pictures, all or none. Raises RefusedError (503) if there is no place for them."""
        order = Order(pictures, explain, label)
        with self._lock:
            if not self._open or time.monotonic() > self._until:
                raise RefusedError(503, "the server is stopping", 5)
            self.refuse_if_full(order.places)
            if not self._places:
                self._since = time.monotonic()
            self._places += order.places
            self._arrived.extend(order.jobs)
            self._to_decode.notify(min(len(pictures), self._decoding))
        return order

    def give_up(self, order: Order) -> None:
        """Free the places of an order that nobody waits for any more."""
        with self._lock:
            if order.given_up or not order.left:
                return
            order.given_up = True
            self._places -= order.places if order.explain else order.left
            for queue in (self._arrived, self._ready):
                kept = [job for job in queue if job.order is not order]
                queue.clear()
                queue.extend(kept)
            self._to_decode.notify_all()

    def _decode(self) -> None:
        keep_to_one_core()
        while True:
            with self._lock:
                while not self._arrived or len(self._ready) >= 2 * BATCH:
                    if not self._open and not self._arrived:
                        self._decoding -= 1
                        self._to_predict.notify_all()
                        return
                    self._to_decode.wait()
                few = max(1, min(_FEW, len(self._arrived) // self._decoding))
                jobs = [self._arrived.popleft() for _ in range(min(few, len(self._arrived)))]
            for job in jobs:
                if not job.order.given_up:
                    job.pixels = self._pixels(job.data)
                job.data = b""
            with self._lock:
                self._ready.extend(job for job in jobs if not job.order.given_up)
                self._to_predict.notify()

    def _pixels(self, data: bytes) -> torch.Tensor | InputError | Exception:
        try:
            return self._classifier.read(data)
        except Exception as error:  # a defect of ours must not end the thread
            logging.getLogger(__name__).exception("a picture could not be read")
            return error

    def _predict(self) -> None:
        while True:
            with self._lock:
                while not self._ready:
                    if not self._open and not self._decoding:
                        return
                    self._to_predict.wait()
                jobs = [self._ready.popleft() for _ in range(min(BATCH, len(self._ready)))]
                self._to_decode.notify_all()
            for group in _in_one_pass(jobs):
                try:
                    self._answer(group)
                except Exception as error:  # a defect, or a lack of memory
                    logging.getLogger(__name__).exception("a batch failed")
                    for job in group:
                        job.order.answers[job.number] = error
                self._hand_out(group)

    def _answer(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if isinstance(job.pixels, Exception):
                job.order.answers[job.number] = job.pixels
        whole = [job for job in jobs if isinstance(job.pixels, torch.Tensor)]
        pixels = [job.pixels for job in whole if isinstance(job.pixels, torch.Tensor)]
        if whole and whole[0].order.explain:
            try:
                found = self._classifier.explain_pixels(pixels[0], whole[0].order.label)
                whole[0].order.answers[0] = found
            except InputError as error:
                whole[0].order.answers[0] = error
        elif whole:
            for job, row in zip(whole, self._classifier.rows(pixels), strict=True):
                job.order.answers[job.number] = row
            self.metrics.batches += 1
            self.metrics.batched += len(whole)

    def _hand_out(self, jobs: list[_Job]) -> None:
        """Free the places of answered pictures and wake the requests that are complete."""
        finished: list[Order] = []
        with self._lock:
            freed = 0
            for job in jobs:
                order = job.order
                order.left -= 1
                if order.given_up:
                    continue
                freed += order.places if order.explain else 1
                if not order.left:
                    finished.append(order)
            self._places -= freed
            now = time.monotonic()
            if freed:
                spent = (now - self._since) / freed
                self._each = spent if not self._each else 0.8 * self._each + 0.2 * spent
            self._since = now
        if finished:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                finished[0].loop.call_soon_threadsafe(_wake, finished)


def _in_one_pass(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Pictures to be predicted together, and each one to be explained alone."""
    together = [job for job in jobs if not job.order.explain]
    if together:
        yield together
    for job in jobs:
        if job.order.explain:
            yield [job]


def _wake(orders: list[Order]) -> None:
    for order in orders:
        if not order.done.done():
            order.done.set_result(None)


def _seconds(expected: float) -> int:
    return max(1, math.ceil(expected))
