"""Several processes that train one network under torchrun, and what they tell each other.

Everything that crosses from one to another is a collective of torch.distributed; nothing is done
where there is one process. A process that fails, ends or hangs brings the others down with one
message: each beats in the store that torchrun keeps, and watches the others' beats.
"""

import json
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from reslab.errors import InputError, InterruptedRunError
from reslab.process import launched, let_speak

Value = TypeVar("Value")
SIGNALS = (1, 2, 15)  # SIGHUP, SIGINT, SIGTERM
HANGS = 40.0  # seconds without a beat after which a process counts as lost
_BEAT = 1.0  # seconds
_MEETING = 300.0  # seconds that the first process waits for the last
_LEAVING = 10.0  # seconds that the thread which watches the others has to end
_GRACE = 10.0  # seconds that a failed team's process has to come to its own end
_PATIENCE = timedelta(days=1)  # of a collective: what hangs is known by its beats, long before


class LostProcessError(InputError):
    """Another process of the team has failed, ended or hangs."""


@dataclass
class Team:
    """The processes of a training, as one of them sees them; a process alone is a team of one.

    asked: signals that this process has caught. agreed: the one at which all stop after the step
    that they have just made, 0 for none.
    """

    rank: int = 0
    count: int = 1
    asked: list[int] = field(default_factory=list)
    agreed: int = 0
    _store: Any = None
    _done: threading.Event = field(default_factory=threading.Event)
    _watching: threading.Thread | None = None

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run, and speaks."""
        return self.rank == 0

    def asking(self) -> list[float]:
        """Whether this process was asked to stop, by each of the signals."""
        return [float(number in self.asked) for number in SIGNALS]

    def hear(self, asking: list[float]) -> None:
        """What all processes together were asked: the sum of their `asking`."""
        heard = (number for number, count in zip(SIGNALS, asking, strict=True) if count)
        self.agreed = next(heard, 0)

    def share(self, total: int, rank: int | None = None) -> range:
        """Which of so many things in a row are a process's own; the larger shares come first."""
        rank = self.rank if rank is None else rank
        least, larger = divmod(total, self.count)
        start = rank * least + min(rank, larger)
        return range(start, start + least + (rank < larger))

    def led(self, work: Callable[[], Value]) -> Value:
        """What the leader finds; the others wait for it."""
        if self.count == 1:
            return work()
        told = [work() if self.leads else None]
        with self._listening():
            dist.broadcast_object_list(told)
        return told[0]  # type: ignore[return-value]  # the leader's is a Value

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """Let the others enter the block when the leader has left it: what it read is cached."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()

    def wait(self) -> None:
        """Wait until all have come here."""
        self.most(0)

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return max(self.numbers(number))

    def numbers(self, number: int) -> list[int]:
        """All processes' numbers, in their order."""
        if self.count == 1:
            return [number]
        return torch.cat(self.gather(torch.tensor([number]))).tolist()

    def gather(self, own: torch.Tensor) -> list[torch.Tensor]:
        """All processes' tensors, in their order: of one shape, and on one kind of device."""
        found = [torch.empty_like(own) for _ in range(self.count)]
        with self._listening():
            dist.all_gather(found, own.contiguous())
        return found

    def gather_rows(self, own: torch.Tensor, counts: list[int]) -> torch.Tensor:
        """All processes' rows (n, width), of which each has so many, on the CPU."""
        width = self.most(own.shape[1] if len(own) else 0)
        padded = torch.zeros(max(counts), width)
        padded[: len(own)] = own if len(own) else padded[:0]
        found = self.gather(padded)
        return torch.cat([rows[:count] for rows, count in zip(found, counts, strict=True)])

    def swap(self, own: torch.Tensor) -> torch.Tensor:
        """Row r of what this process gives (count, ...) goes to process r: all_to_all."""
        own = own.contiguous()
        found = torch.empty_like(own)  # of a view it would be laid out as the view is
        with self._listening():
            dist.all_to_all_single(found, own)
        return found

    def heed(self) -> None:
        """Raise what another process has failed of, if one has."""
        with self._listening():
            told = self._failure()
        if told is not None:
            raise told

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Say what has happened to the others where a collective fails."""
        try:
            yield
        except RuntimeError as error:
            raise self._what_happened(error) from None

    def _what_happened(self, error: RuntimeError) -> Exception:
        try:
            before = self._beats()
            for _ in range(30):  # who fails says so before it ends
                if (told := self._failure()) is not None:
                    return told
                time.sleep(_BEAT / 10)
            now = self._beats()
            lost = [rank for rank in range(self.count) if now[rank] in (before[rank], "left")]
            lost = [rank for rank in lost if rank != self.rank]
        except RuntimeError:
            return LostProcessError("torchrun itself has ended; what was saved is safe")
        if not lost:
            reason = str(error).strip().splitlines()[0]
            return LostProcessError(f"the processes can no longer speak to each other ({reason})")
        problem = LostProcessError(_lost(lost, self.count, "has ended"))
        self.fail(problem)
        return problem

    def _failure(self) -> Exception | None:
        """The failure that a process has told of, which is then not to be told again."""
        if self._store is None or not self._store.check(["failed"]):
            return None
        found = json.loads(self._store.get("failed"))
        let_speak(False)
        if found["status"] >= 128:
            return InterruptedRunError(found["message"], found["status"] - 128)
        return LostProcessError(found["message"])

    def fail(self, error: BaseException) -> None:
        """Tell the others why this process ends; who is not the first falls silent."""
        if self._store is None:
            return
        record = {"rank": self.rank, "status": _status(error), "message": str(error)}
        mine = json.dumps(record)
        with suppress(RuntimeError):
            first = self._store.compare_set("failed", "", mine).decode() == mine
            let_speak(first)

    def _beats(self) -> list[str]:
        names = [f"beat/{rank}" for rank in range(self.count)]
        return [value.decode() for value in self._store.multi_get(names)]

    def watch(self, store: Any) -> None:
        """Beat and watch the others until this process leaves; a thread's work.

        A main thread that waits for one that will not come cannot be reached: the process ends.
        """
        seen: dict[int, tuple[str, float]] = {}
        own = Team(self.rank, self.count, _store=store)
        failed: float | None = None
        count = 0
        while not self._done.wait(_BEAT):
            count += 1
            try:
                store.set(f"beat/{self.rank}", str(count))
                beats, now = own._beats(), time.monotonic()
                told = store.check(["failed"])
            except RuntimeError:
                _end("torchrun itself has ended; what was saved is safe", 2)
            for rank, beat in enumerate(beats):
                if seen.get(rank, ("", 0.0))[0] != beat or beat == "left":
                    seen[rank] = beat, now
            lost = [rank for rank, (_, last) in seen.items() if now - last > HANGS]
            if told:
                failed = failed or now
                if now - failed > _GRACE:
                    _end(None, json.loads(store.get("failed"))["status"])
            elif lost:
                own.fail(LostProcessError(_lost(lost, self.count, "hangs")))
                if json.loads(store.get("failed"))["rank"] == self.rank:
                    _end(_lost(lost, self.count, "hangs"), 2)

    def leave(self, *, failed: bool) -> None:
        """Leave the others, who may have something to do still."""
        self._done.set()
        if self._watching is not None:
            # A thread that comes back from C++ code while Python ends takes the process down.
            self._watching.join(_LEAVING)
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(f"beat/{self.rank}", "left")
            if not (failed and torch.cuda.is_available()):  # NCCL would wait for the others
                dist.destroy_process_group()


_team = Team()


def team() -> Team:
    """The processes that train together with this one."""
    return _team


@contextmanager
def together() -> Iterator[None]:
    """Work with the other processes that torchrun has started, inside the block."""
    global _team
    if not launched() or _team.count > 1:
        yield
        return
    let_speak(None)
    _team, failed = _join(), True
    try:
        yield
        failed = False
    except BaseException as error:
        _team.fail(error)
        raise
    finally:
        _team.leave(failed=failed)
        _team = Team()


def _join() -> Team:
    """Meet the others where torchrun says."""
    if os.environ["WORLD_SIZE"] == "1":
        return Team()
    store, rank, count = _connect()
    meeting = _meet(store, rank, count)
    store = _within(meeting, store)
    found = Team(rank, count, _store=store)
    store.set(f"beat/{rank}", "0")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    within = _within("collectives", store)
    dist.init_process_group(backend, store=within, rank=rank, world_size=count, timeout=_PATIENCE)
    found.wait()
    # A connection that nothing holds up.
    second = _within(meeting, _connect()[0])
    found._watching = threading.Thread(
        target=found.watch, args=(second,), name="watching", daemon=True
    )
    found._watching.start()
    return found


def _within(name: str, store: Any) -> Any:
    """A part of the store under a name of its own."""
    # torch takes the name from its C extension, where mypy does not look.
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


def _connect() -> tuple[Any, int, int]:
    """(store, rank, count) as torchrun has arranged them."""
    from torch.distributed.rendezvous import rendezvous

    store, rank, count = next(iter(rendezvous("env://")))
    return store, rank, count


def _meet(store: Any, rank: int, count: int) -> str:
    """A name for this meeting of just these processes.

    The store may hold what those said that torchrun had started before them: the leader answers who
    greets, and goes on when all have come to the name that it answered with.
    """
    own = secrets.token_hex(8)
    until = time.monotonic() + _MEETING
    if rank == 0:
        answered: dict[int, str] = {}
        missing = set(range(1, count))
        while missing and time.monotonic() < until:
            for other in sorted(missing):
                if store.check([f"{own}/{other}"]):
                    missing.discard(other)
                elif store.check([f"greeting/{other}"]):
                    said = store.get(f"greeting/{other}").decode()
                    if answered.get(other) != said:
                        store.set(f"answer/{other}", f"{said} {own}")
                        answered[other] = said
            time.sleep(0.02)
        if not missing:
            return own
    else:
        store.set(f"greeting/{rank}", own)
        while time.monotonic() < until:
            if store.check([f"answer/{rank}"]):
                said, name = store.get(f"answer/{rank}").decode().split()
                if said == own:
                    store.set(f"{name}/{rank}", "here")
                    return str(name)
            time.sleep(0.02)
    raise LostProcessError(f"the {count} processes do not meet; has one ended before it began?")


def _status(error: BaseException) -> int:
    """With which status a command ends after this error."""
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return 128 + getattr(error, "signal_number", 2)
    return 2 if isinstance(error, InputError | OSError) else 1


def _lost(ranks: list[int], count: int, what: str) -> str:
    """That processes of a team are lost, in words."""
    named = " and ".join(str(rank) for rank in ranks)
    which = f"process {named} of {count} (they count from 0) {what}"
    return f"{which}, so all stop; what was saved is safe: go on with `reslab resume`"


def _end(message: str | None, status: int) -> None:
    """End this process, whatever its main thread waits for."""
    if message is not None:
        print(f"reslab: error: {message}", file=sys.stderr, flush=True)
    os._exit(status)
