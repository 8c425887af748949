"""Parquet files and saved datasets with a column of pictures, as Hugging Face has them.

A picture is the bytes in a struct {bytes, path}, or in a column of bytes; its label an index into
the names that the file's own description gives, a number or a text. A Parquet file is read a row
group at a time, a saved dataset through a map of its Arrow files.
"""

import errno
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from reslab.errors import InputError
from reslab.pictures.arrow_table import Table, open_table, reason, unreadable
from reslab.pictures.lists import SPLIT_NAMES
from reslab.pictures.packed import (
    Packed,
    PackedEntries,
    PackedList,
    Place,
    in_order,
    open_packed,
    unlabelled,
)
from reslab.pictures.table import Pictures

_HELD = 1 << 28  # bytes of row groups that are kept decoded
_OPEN = 64  # files that are open at once
Version = tuple[int, int]  # of a file: its size, and when it was written, in nanoseconds


class _Groups:
    """The groups of rows that were read last, of all files of the process.

    version: what a file that is written anew has another one of.
    """

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[Path, Version], Table] = OrderedDict()
        self._held: OrderedDict[tuple[Path, Version, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def column(self, path: Path, version: Version, group: int) -> Any:
        """The bytes of a group's pictures. Raises InputError, OSError or pyarrow's own."""
        file, key = (path, version), (path, version, group)
        with self._lock:
            if key not in self._held:
                if file not in self._opened:
                    while len(self._opened) >= _OPEN:
                        self._opened.popitem(last=False)
                    self._opened[file] = _open_as_listed(path, version)
                self._held[key] = self._opened[file].pictures(group)
                while len(self._held) > 1 and self._bytes > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    @property
    def _bytes(self) -> int:
        return sum(one.nbytes for one in self._held.values())


def _open_as_listed(path: Path, version: Version) -> Table:
    """Open a file whose pictures were listed. Raises InputError if it is another one since."""
    table, found = open_table(path), path.stat()
    if (found.st_size, found.st_mtime_ns) != version:
        raise InputError("the file has changed since it was listed")
    return table


_groups = _Groups()


class Tables(Packed):
    """The pictures in columns, by row group or record batch, and row."""

    def _read(self, part: int, place: Place, most: int) -> bytes:
        group, row = place
        try:
            version = self._sizes[part], int(self._times[part, 0])
            data = _groups.column(self._files[part], version, group)[row].as_py()
        except InputError as error:
            raise OSError(errno.EIO, str(error)) from None
        except unreadable() as error:
            raise OSError(errno.EIO, reason(error)) from None
        if data is None:
            raise OSError(errno.ENODATA, "the row holds no bytes of a picture; embed them")
        if len(data) > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB")
        return bytes(data)

    def where(self, name: str) -> str:
        row = self._row(name)
        if row is None:
            return name
        group, inside = self._places[row].tolist()
        return f"{self._files[self._parts[row]]}:group {group}, row {inside} ({name})"


def open_parquet(
    name: str,
    location: Path,
    files: Mapping[str, Sequence[Path]],
    classes: tuple[str, ...] | None,
) -> Pictures:
    """The table of Parquet or Arrow files by split. Raises InputError."""
    found, told = {}, set()
    for split, paths in files.items():
        found[split], names = _entries(paths, name)
        told |= names
    if len(told) > 1:
        raise InputError(f"{location}: its files name different classes, or in another order")
    own = (told.pop(), str(location)) if told else None
    return open_packed(name, location, found, Tables, classes, own)


def _entries(files: Sequence[Path], name: str) -> tuple[PackedEntries, set[tuple[str, ...]]]:
    """What the files of a split hold, and how they themselves name the classes."""
    gathered = PackedList()
    told: set[tuple[str, ...]] = set()
    for part, path in enumerate(files):
        table = open_table(path)
        class_names = table.class_names
        told |= {class_names} if class_names else set()
        number = 0
        for group in range(table.groups):
            try:
                rows = list(table.names_and_labels(group))
            except unreadable() as error:
                gathered.problems.append(f"{path}: group {group} cannot be read ({reason(error)})")
                continue
            for row, (called, value) in enumerate(rows):
                label = _label(value, class_names)
                if label is None:
                    gathered.problems.append(f"{path}: row {number} has no label: {value!r}")
                else:
                    own = PurePosixPath(called or "").name.replace("\0", "") or f"{number:08d}"
                    gathered.append(own, label, part, (group, row))
                number += 1
    return gathered.entries(files, name), told


def unlabelled_table(path: Path) -> Packed:
    """The pictures of a file, whether it has labels or not, in its order. Raises InputError."""
    table, found = open_table(path), list[tuple[str, Place]]()
    for group in range(table.groups):
        try:
            names = table.names(group) or [None] * table.count(group)
        except unreadable() as error:
            raise InputError(f"{path}: group {group} cannot be read ({reason(error)})") from None
        for row, called in enumerate(names):
            own = PurePosixPath(called or "").name.replace("\0", "")
            found.append((f"{len(found):010d}{'-' if own else ''}{own}", (group, row)))
    return unlabelled(Tables, path, *in_order(found))


def _label(value: Any, class_names: tuple[str, ...] | None) -> str | None:
    """A label as a word; None if it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        known = class_names is not None and 0 <= value < len(class_names)
        return class_names[value] if known and class_names else str(value)
    text = value.strip() if isinstance(value, str) else ""
    return text if text and "\0" not in text else None


def open_saved(folder: Path, classes: tuple[str, ...] | None) -> Pictures:
    """A dataset that Hugging Face's `save_to_disk` wrote. Raises InputError."""
    splits = {"": folder}
    if (folder / "dataset_dict.json").is_file():
        listed = _json(folder / "dataset_dict.json").get("splits")
        splits = {str(split): folder / str(split) for split in listed or ()}
    files: dict[str, list[Path]] = {}
    for written, place in splits.items():
        split = SPLIT_NAMES.get(written.lower(), "train" if not written else "")
        if not split or split in files:
            raise InputError(f"{folder}: split {written!r} is none of train, validation and test")
        state = _json(place / "state.json")
        if state.get("_indices_files"):
            raise InputError(f"{place}: rows chosen by indices; save it by datasets 2.0 or later")
        parts = [one.get("filename") for one in state.get("_data_files") or ()]
        if not parts or any(Path(str(part)).name != part for part in parts):
            raise InputError(f"{place / 'state.json'}: names no data files in its folder")
        files[split] = [place / part for part in parts]
    return open_parquet(folder.name, folder, files, classes)


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    one = (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    return one or (folder / "dataset_dict.json").is_file()


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return found if isinstance(found, dict) else {}
