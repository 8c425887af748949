"""Reading the files of a data set once: their content keys, then their pixels, by threads."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np
import torch

from reslab.errors import InputError
from reslab.pictures.decoding import UnreadablePictureError, decode, with_channels
from reslab.pictures.files import printable
from reslab.pictures.preprocessing import Preprocessing
from reslab.pictures.table import Pictures, Samples

Item = TypeVar("Item")
Result = TypeVar("Result")


class Track(Protocol):
    """Shows the progress of an iteration, as `tqdm` does."""

    def __call__(self, items: Iterable[Item], what: str, total: int) -> Iterable[Item]: ...


def untracked(items: Iterable[Item], what: str, total: int) -> Iterable[Item]:
    return items


def in_threads(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int = 64
) -> Iterator[Result]:
    """`map` by a thread for each core, in order, at most `ahead` results waiting."""
    source = iter(items)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = [pool.submit(work, item) for item in islice(source, ahead)]
        waiting.reverse()
        try:
            while waiting:
                yield waiting.pop().result()
                for item in islice(source, 1):
                    waiting.insert(0, pool.submit(work, item))
        finally:
            for future in waiting:
                future.cancel()


def content_key(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def with_keys(pictures: Pictures, *, leave_out: bool = False, track: Track = untracked) -> Pictures:
    """The pictures with every sample's content key; every file is opened and decoded once.

    A file that cannot be read in full stops the work with every such path, or with `leave_out`
    is left out and listed in `left_out`. Raises InputError.
    """
    splits: dict[str, Samples] = {}
    problems: list[str] = []
    for name, samples in pictures:
        if samples.pixels is not None:
            keys = [content_key(pixels.numpy().tobytes()) for pixels in samples.pixels]
            splits[name] = replace(samples, keys=np.array(keys, dtype=np.uint64))
            continue
        rows = range(len(samples))

        def check(row: int, samples: Samples = samples) -> int | str:
            assert samples.files is not None
            try:
                data = samples.files.read(samples.paths[row])
                decode(data, 3)
                return content_key(data)
            except (OSError, UnreadablePictureError) as error:
                reason = error.strerror if isinstance(error, OSError) else None
                return f"{samples.where(row)}: {reason or error}"

        results = list(track(in_threads(check, rows), f"checking {name}", len(samples)))
        kept = np.array([row for row in rows if isinstance(results[row], int)], dtype=np.int64)
        problems += [printable(result) for result in results if isinstance(result, str)]
        keys = [result for result in results if isinstance(result, int)]
        splits[name] = replace(
            samples.take(kept) if len(kept) < len(samples) else samples,
            keys=np.array(keys, dtype=np.uint64),
        )
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


def read_picture(samples: Samples, row: int, channels: int) -> torch.Tensor:
    """One sample's pixels, uint8 (C, H, W). Raises InputError if the file is gone or damaged."""
    if samples.pixels is not None:
        return with_channels(samples.pixels[row][None], channels)[0]
    assert samples.files is not None
    try:
        return decode(samples.files.read(samples.paths[row]), channels)
    except (OSError, UnreadablePictureError) as error:
        raise InputError(f"{samples.where(row)}: {error}") from None


class PixelStore:
    """The pixels of samples at the size a network wants them, a batch at a time.

    Pictures of one size that hold fewer pixels than the target stay in memory as they are and
    are fitted when they are taken; others are fitted once and kept. What does not fit into
    `budget` bytes of memory is decoded again whenever it is taken.
    """

    def __init__(
        self,
        samples: Samples,
        target: Preprocessing,
        *,
        budget: int | None = None,
        track: Track = untracked,
        what: str = "reading",
    ) -> None:
        self.samples = samples
        self.target = target
        self._raw: torch.Tensor | None = None
        self._fitted: torch.Tensor | None = None
        if samples.pixels is not None:
            self._raw = with_channels(samples.pixels, target.channels)
            return
        limit = _memory_budget() if budget is None else budget
        area = target.channels * target.size[0] * target.size[1]
        if area * len(samples) <= limit:
            self._read_all(track, what)

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """The pixels of these rows, uint8 (n, C, *target.size)."""
        if self._fitted is not None:
            return self._fitted[rows]
        if self._raw is not None:
            return self.target.fit(self._raw[rows])
        return torch.stack(list(in_threads(self._read_fitted, rows.tolist())))

    def _read_fitted(self, row: int) -> torch.Tensor:
        pixels = read_picture(self.samples, row, self.target.channels)
        return self.target.fit(pixels[None])[0]

    def _read_all(self, track: Track, what: str) -> None:
        """Fill `_raw` while the pictures are small and of one size, else `_fitted`."""
        count, target = len(self.samples), self.target

        def read(row: int) -> torch.Tensor:
            return read_picture(self.samples, row, target.channels)

        for row, pixels in enumerate(track(in_threads(read, range(count)), what, count)):
            if row == 0 and pixels[0].numel() < target.size[0] * target.size[1]:
                self._raw = torch.empty((count, *pixels.shape), dtype=torch.uint8)
            if self._raw is not None and self._raw.shape[1:] != pixels.shape:
                self._start_fitted()  # not of one size after all
                for earlier in range(row):
                    self._keep_fitted(earlier, self._raw[earlier])
                self._raw = None
            if self._raw is not None:
                self._raw[row] = pixels
            else:
                self._keep_fitted(row, pixels)

    def _start_fitted(self) -> None:
        shape = (len(self.samples), self.target.channels, *self.target.size)
        self._fitted = torch.empty(shape, dtype=torch.uint8)

    def _keep_fitted(self, row: int, pixels: torch.Tensor) -> None:
        if self._fitted is None:
            self._start_fitted()
        assert self._fitted is not None
        self._fitted[row] = self.target.fit(pixels[None])[0]


def _memory_budget() -> int:
    """Half of the memory that is free now, in bytes; 2 GiB where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 2 << 30
