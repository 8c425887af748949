"""Names of millions of pictures, held as one text: a str of its own would cost each 80 bytes."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_TOGETHER = 1 << 14  # names that are Python objects at a time
_BLOCK = 1 << 24  # bytes that are searched for ends at a time
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no power of it is 0


class Names(Sequence[str]):
    """Names in order, which do not change: their bytes, a NUL after each, and where each begins.

    UTF-8, but for bytes of file names that are none ("surrogateescape"). What is taken of names
    shares their bytes. Equal to any names and tuples that hold the same.
    """

    __slots__ = ("_rows", "_starts", "_text")

    def __init__(
        self, text: np.ndarray, starts: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> None:
        """text: uint8, each name's bytes and a NUL.

        starts: int64 (N + 1,), where each name begins and where the last one's NUL ends; found if
        None. rows: which of these names are meant, in this order; all if None.
        """
        self._text = text
        self._starts = _starts_in(text) if starts is None else starts
        self._rows = rows

    @staticmethod
    def of(names: Iterable[str]) -> "Names":
        """The names as given. Raises ValueError if one holds a NUL."""
        gathered = NameList()
        for name in names:
            gathered.append(name)
        return gathered.names()

    @staticmethod
    def joined(parts: "Sequence[Names]") -> "Names":
        """The names of several, one after another."""
        if len(parts) == 1:
            return parts[0]
        return Names(np.concatenate([part.text() for part in parts] or [np.zeros(0, np.uint8)]))

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Names": ...
    def __getitem__(self, row: int | slice) -> "str | Names":
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self))))
        place = range(len(self))[row]  # from the end where negative; raises IndexError
        if self._rows is not None:
            place = int(self._rows[place])
        name = self._text[self._starts[place] : self._starts[place + 1] - 1]
        return name.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TOGETHER):
            text = self._bytes(start, start + _TOGETHER).tobytes()[:-1]
            yield from text.decode("utf-8", "surrogateescape").split("\0")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names):
            if len(self) != len(other):
                return False
            bounds = range(0, len(self), _TOGETHER)
            return all(
                np.array_equal(self._bytes(k, k + _TOGETHER), other._bytes(k, k + _TOGETHER))
                for k in bounds
            )
        if isinstance(other, tuple):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it would have to be a tuple's, which takes all of them

    def __repr__(self) -> str:
        shown = ", ".join(repr(name) for name in self[:3]) + (", ..." if len(self) > 3 else "")
        return f"<{len(self):,} names: {shown}>"

    def take(self, rows: np.ndarray) -> "Names":
        """The names at these rows, in this order; no byte is copied."""
        if len(rows) == len(self) and np.array_equal(rows, np.arange(len(self))):
            return self
        of_all = rows if self._rows is None else self._rows[rows]
        return Names(self._text, self._starts, np.asarray(of_all, dtype=np.int64))

    def text(self) -> np.ndarray:
        """The names' bytes in their order, a NUL after each: uint8."""
        return self._bytes(0, len(self))

    def matching(self, others: "Names") -> np.ndarray:
        """For each of `others` a row of its name here, the first one, or -1: int64 (M,)."""
        if len(self) == 0:
            return np.full(len(others), -1)
        if self == others:
            return np.arange(len(self))
        known, wanted = self._hashes(), others._hashes()
        order, asked = np.argsort(known, kind="stable"), np.argsort(wanted)  # both: one goes along
        places = np.searchsorted(known[order], wanted[asked]).clip(0, len(self) - 1)
        found = np.empty(len(others), np.int64)
        found[asked] = order[places]
        # Equal hashes are no proof. Names that share one are told from each other by this alone:
        # then all but the first count as unknown.
        found[~self.take(found)._same_as(others)] = -1
        return found

    def repeated(self) -> np.ndarray:
        """For each name the first row that holds the same: int64 (N,)."""
        first = _firsts(self._hashes())
        odd = np.flatnonzero(~self.take(first)._same_as(self))
        seen: dict[str, int] = {}
        for row in odd.tolist():  # others with the hash of a first one; hardly ever there
            first[row] = seen.setdefault(self[row], row)
        return first

    def _bytes(self, start: int, stop: int) -> np.ndarray:
        """The bytes of the names from row `start` to before `stop`, a NUL after each."""
        stop = min(stop, len(self))
        if self._rows is None:
            return self._text[self._starts[start] : self._starts[stop]]
        parts = [
            self._gathered(self._rows[k : min(k + _TOGETHER, stop)])
            for k in range(start, stop, _TOGETHER)
        ]
        return np.concatenate(parts) if parts else self._text[:0]

    def _gathered(self, places: np.ndarray) -> np.ndarray:
        begin = self._starts[places]
        lengths = self._starts[places + 1] - begin
        ends = np.cumsum(lengths)
        places = np.repeat(begin - (ends - lengths), lengths) + np.arange(ends[-1])
        return np.asarray(self._text[places])

    def _hashes(self) -> np.ndarray:
        """A number of 64 bits for each name, by its bytes: uint64 (N,)."""
        found = np.empty(len(self), np.uint64)
        for start in range(0, len(self), _TOGETHER):
            text = self._bytes(start, start + _TOGETHER)
            starts = _starts_in(text)
            lengths = np.diff(starts)
            powers = np.cumprod(np.full(lengths.max(), _FACTOR))
            places = np.arange(len(text)) - np.repeat(starts[:-1], lengths)
            values = text.astype(np.uint64) * powers[places]
            found[start : start + _TOGETHER] = np.add.reduceat(values, starts[:-1])
        return found

    def _same_as(self, others: "Names") -> np.ndarray:
        """Whether each name is that of `others` at its row: bool (N,)."""
        found = np.empty(len(self), bool)
        for start in range(0, len(self), _TOGETHER):
            stop = min(start + _TOGETHER, len(self))
            one, other = self._bytes(start, stop), others._bytes(start, stop)
            if np.array_equal(one, other):
                found[start:stop] = True
            else:
                pairs = zip(self[start:stop], others[start:stop], strict=True)
                found[start:stop] = [a == b for a, b in pairs]
        return found


class NameList:
    """Names that are gathered one by one."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._last: list[str] = []

    def append(self, name: str) -> None:
        """Add a name, which holds no NUL."""
        self._last.append(name)
        if len(self._last) == _TOGETHER:
            self._put_away()

    def names(self) -> Names:
        """The names. None may be added after. Raises ValueError if one holds a NUL."""
        self._put_away()
        return Names(np.frombuffer(self._text, np.uint8))

    def _put_away(self) -> None:
        if self._last:
            text = "\0".join(self._last)
            if text.count("\0") != len(self._last) - 1:
                raise ValueError("a name holds a NUL")
            self._text += text.encode("utf-8", "surrogateescape")
            self._text += b"\0"
            self._last = []


def _starts_in(text: np.ndarray) -> np.ndarray:
    """Where each name begins, and the end of the last: int64 (N + 1,)."""
    parts = [np.zeros(1, np.int64)]
    for start in range(0, len(text), _BLOCK):
        parts.append(np.flatnonzero(text[start : start + _BLOCK] == 0) + (start + 1))
    return np.concatenate(parts)


def _firsts(values: np.ndarray) -> np.ndarray:
    """For each value the first row that holds it: int64 (N,)."""
    order = np.argsort(values, kind="stable")
    new = np.diff(values[order], prepend=~values[order[:1]]) != 0
    first = np.empty(len(values), np.int64)
    first[order] = order[new][np.cumsum(new) - 1]
    return first
