"""Reading the files of a data set, each once, by threads: content keys and small pixels."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from reslab.errors import InputError
from reslab.pictures import remembered
from reslab.pictures.cache import size_of
from reslab.pictures.content import KEY, content_key
from reslab.pictures.decoding import UnreadablePictureError, decode, with_channels
from reslab.pictures.files import printable
from reslab.pictures.settings import SMALL
from reslab.pictures.small_pixels import SmallPixels
from reslab.pictures.table import Pictures, Samples
from reslab.process import processes_here

_SMALL_FILE = 4096  # bytes; reading files below it, threads wait for each other most of the time
_LOOKED_AT = 16  # files, to know how large they are
_WORTH_LOOKING = 500  # files
_AT_ONCE = 0.5e-3  # seconds that a file at hand takes at most

# Row, content key, and the pixels of a small picture or why the file cannot be read.
_Read = tuple[int, tuple[int, int], torch.Tensor | str | None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Track(Protocol):
    """Shows the progress of an iteration, as `tqdm` does."""

    def __call__(self, items: Iterable[Item], what: str, total: int) -> Iterable[Item]: ...


def untracked(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    return items


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int = 256,
    threads: int | None = None,
) -> Generator[Result, None, None]:
    """`map` by threads, in order, at most `ahead` results waiting; a thread a core if not said."""
    source = iter(items)
    # A future a picture would cost more than decoding a small one.
    at_once = max(1, ahead // 16)

    def work_through(few: list[Item]) -> list[Result]:
        return [work(item) for item in few]

    with ThreadPoolExecutor(threads or os.cpu_count() or 1, initializer=keep_to_one_core) as pool:
        parts = iter(lambda: list(islice(source, at_once)), [])
        waiting = deque(pool.submit(work_through, part) for part in islice(parts, 16))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work_through, part) for part in islice(parts, 1))
                yield from done
        finally:
            for future in waiting:
                future.cancel()


def threads_for(samples: Samples, rows: np.ndarray) -> int | None:
    """How many threads read these rows' files fastest, for `in_threads`, by the first of them.

    Small ones keep Python busy, which runs a thread at a time: two take half as long again as one,
    unless the disk lets them wait.
    """
    if len(rows) < _WORTH_LOOKING:
        return None
    sizes, began = [], time.perf_counter()
    for row in rows[:_LOOKED_AT].tolist():
        assert samples.files is not None
        with suppress(OSError):  # told where it is read
            sizes.append(len(samples.files.read(samples.paths[row])))
    waiting = (time.perf_counter() - began) / _LOOKED_AT
    return 1 if sizes and np.median(sizes) < _SMALL_FILE and waiting < _AT_ONCE else None


def keep_to_one_core() -> None:
    """Let torch's operations in this thread keep to it: the others have the other cores.

    torch.set_num_threads would set the number of threads that start later too. This thread's own
    number is OpenMP's, once torch has set it up.
    """
    torch.get_num_threads()
    threadpool_limits(1, user_api="openmp")


def with_keys(pictures: Pictures, *, leave_out: bool = False, track: Track = untracked) -> Pictures:
    """The pictures with every sample's content key; every file is opened and decoded once.

    Small pictures of one size keep their pixels, in memory or in a file of the cache. What an
    earlier command read of files that have not changed since is not read again. A file that cannot
    be read in full stops the work with every such path, or with `leave_out` is left out and listed
    in `left_out`. Raises InputError.
    """
    splits: dict[str, Samples] = {}
    problems: list[str] = []
    for name, samples in pictures:
        if samples.pixels is not None:
            keys = (content_key(pixels.numpy().tobytes()) for pixels in samples.pixels.whole())
            splits[name] = replace(samples, keys=np.fromiter(keys, KEY, len(samples)))
        else:
            splits[name], unread = _read_files(samples, name, track)
            problems += unread
    if problems and not leave_out:
        raise InputError(
            f"{pictures.name}: {len(problems):,} picture(s) cannot be read; mend or remove them, or"
            " leave them out with --leave-out-unreadable:",
            problems,
        )
    splits = {name: samples for name, samples in splits.items() if len(samples)}
    if not splits:
        raise InputError(f"{pictures.name}: no picture can be read:", problems)
    return replace(pictures, splits=splits, left_out=tuple(problems))


def _read_files(samples: Samples, split: str, track: Track) -> tuple[Samples, list[str]]:
    """The samples that can be read, with their keys, and why the others cannot."""
    files, names = samples.files, samples.paths
    assert files is not None
    began = remembered.now()
    stamps = files.stamps(names)
    earlier = remembered.recall(files.location, split, names)
    small = SmallPixels(len(names), memory_budget())
    if earlier is not None and earlier.kept is None and small.fits(earlier.lacking):
        earlier = None  # small pixels, for which there is memory now
    rows = np.full(len(names), -1) if earlier is None else earlier.rows_of(names, stamps)
    keys = np.zeros(len(names), dtype=KEY)
    with closing(small):
        if earlier is not None:
            known = rows >= 0
            keys[known] = earlier.keys[rows[known]]
            small.put_many(known, rows, earlier)
        missing = np.flatnonzero(rows < 0)
        del earlier, rows
        unread: dict[int, str] = {}
        for row, key, found in track(
            _read_each(samples, missing), f"reading {split}", len(missing)
        ):
            if isinstance(found, str):
                unread[row] = found
            else:
                keys[row] = key
                small.put(row, found)
        whole = replace(samples, keys=keys, pixels=small.held(), kept=small.kept(keys))
    if unread:
        readable = np.delete(np.arange(len(names)), list(unread))
        whole, stamps = whole.take(readable), stamps[readable]
    if len(missing) > len(unread):
        held = None if whole.pixels is None else whole.pixels.whole().numpy()
        reading = remembered.Reading(
            whole.paths, stamps, whole.keys, held, small.lacking, whole.kept
        )
        remembered.remember(files.location, split, reading, began)
    return whole, [unread[row] for row in sorted(unread)]


def _read_each(samples: Samples, rows: np.ndarray) -> Iterator[_Read]:
    """Each of the rows, in the order in which they are read fastest."""
    files, names = samples.files, samples.paths
    assert files is not None
    order = files.nearby(names.take(rows))

    def read(row: int) -> _Read:
        try:
            data = files.read(names[row])
            pixels = decode(data, 3, 2 * SMALL)
            # Photos are only checked here; waiting in line they would fill the memory.
            return row, content_key(data), pixels if max(pixels.shape) <= SMALL else None
        except (OSError, UnreadablePictureError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            return row, (0, 0), printable(f"{samples.where(row)}: {reason or error}")

    ordered = rows if order is None else rows[order]
    return in_threads(read, map(int, ordered), threads=threads_for(samples, ordered))


def read_picture(
    samples: Samples, row: int, channels: int, read: Callable[[bytes], torch.Tensor] | None = None
) -> torch.Tensor:
    """One sample's pixels, uint8 (C, H, W). Raises InputError if the file is gone or damaged.

    read: how to make the pixels of the file's bytes; decoded as they are if None.
    """
    if samples.pixels is not None:
        return with_channels(samples.pixels.one(row)[None], channels)[0]
    assert samples.files is not None
    try:
        data = samples.files.read(samples.paths[row])
        if len(samples.keys) and content_key(data) != samples.keys[row].item():
            raise InputError(
                f"{samples.where(row)}: changed while it was in use; put it back, or train anew"
            )
        return decode(data, channels) if read is None else read(data)
    except (OSError, UnreadablePictureError) as error:
        raise InputError(f"{samples.where(row)}: {error}") from None


def memory_budget() -> int:
    """Half of the memory that can be had now, in bytes; 2 GiB where the system does not say.

    Processes that train together on a machine have equal shares of it. RESLAB_MEMORY names another
    number, such as 8GB.
    """
    if given := os.environ.get("RESLAB_MEMORY"):
        return size_of(given, "RESLAB_MEMORY")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        # Not "MemFree": what the system keeps of files it gives away when asked.
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) * 1024 // 2 // processes_here()
    except (OSError, StopIteration, ValueError):
        return 2 << 30
