"""Parquet files and saved datasets with a column of pictures, as Hugging Face has them.

A picture is the bytes in a struct {bytes, path}, or in a column of bytes; its label an index into
the names that the file's own description gives, a number or a text. A Parquet file is read a row
group at a time, a saved dataset through a map of its Arrow files.
"""

import errno
import json
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from reslab.errors import InputError
from reslab.pictures.lists import LABEL_COLUMNS, SPLIT_NAMES
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

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")
_HELD = 1 << 28  # bytes of row groups that are kept decoded
_OPEN = 64  # files that are open at once
Version = tuple[int, int]  # of a file: its size, and when it was written, in nanoseconds


class _Groups:
    """The groups of rows that were read last, of all files of the process.

    version: what a file that is written anew has another one of.
    """

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[Path, Version], _Table] = OrderedDict()
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
                    self._opened[file] = open_table(path)
                self._held[key] = self._opened[file].pictures(group)
                while len(self._held) > 1 and self._bytes > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    @property
    def _bytes(self) -> int:
        return sum(one.nbytes for one in self._held.values())


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
        except _unreadable() as error:
            raise OSError(errno.EIO, _reason(error)) from None
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


class _Table:
    """A Parquet or Arrow file: its columns, and its groups of rows."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._batches: list[Any] | None = None
        self._parquet: Any = None
        if path.suffix.lower() == ".arrow":
            reader = pa.ipc.open_stream(pa.memory_map(str(path)))
            self.schema = reader.schema
            self._batches = [batch for batch in reader if len(batch)]
            self.groups = len(self._batches)
        else:
            self._parquet = pq.ParquetFile(path, memory_map=True)
            self.schema = self._parquet.schema_arrow
            self.groups = self._parquet.num_row_groups
        self.features = _features(self.schema.metadata or {})
        self.image = self._only("pictures", self._image_columns())

    @cached_property
    def label(self) -> str:
        """The column of labels. Raises InputError if there is none."""
        return self._only("labels", self._label_columns())

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names that the file's own description gives to its labels."""
        names = self.features.get(self.label, {}).get("names")
        return tuple(map(str, names)) if isinstance(names, list) else None

    def _image_columns(self) -> list[str]:
        import pyarrow as pa

        told = [name for name, about in self.features.items() if about.get("_type") == "Image"]
        kinds = {name: self.schema.field(name).type for name in self.schema.names}
        structs = [
            name
            for name, kind in kinds.items()
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        ]
        plain = [
            name
            for name, kind in kinds.items()
            if name.lower() in IMAGE_COLUMNS
            and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        ]
        return [name for name in told if name in kinds] or structs or plain

    def _label_columns(self) -> list[str]:
        named = [name for name in self.schema.names if name.lower() in LABEL_COLUMNS]
        told = [
            name for name in self.schema.names
            if self.features.get(name, {}).get("_type") == "ClassLabel"
        ]  # fmt: skip
        return [name for name in told if name in named] or told or named[:1]

    def _only(self, what: str, columns: list[str]) -> str:
        if len(columns) != 1:
            held = ", ".join(columns or self.schema.names)
            count = "no column" if not columns else "several columns"
            raise InputError(f"{self._path}: {count} of {what} among {held}")
        return columns[0]

    def pictures(self, group: int) -> Any:
        """The bytes of a group's pictures, an Arrow array, perhaps in several chunks."""
        column = self._columns(group, [self.image])[self.image]
        return _field(column, "bytes") if self._is_struct else column

    def names_and_labels(self, group: int) -> Iterator[tuple[str | None, Any]]:
        """What each picture of a group is called, and its label."""
        labels = self._columns(group, [self.label])[self.label].to_pylist()
        return zip(self.names(group) or [None] * len(labels), labels, strict=True)

    def names(self, group: int) -> list[str | None]:
        """What each picture of a group is called; none where nothing is said of it."""
        kind = self.schema.field(self.image).type
        if not self._is_struct or kind.get_field_index("path") < 0:
            return []
        columns = self._columns(group, [f"{self.image}.path"])
        return list(_field(columns[self.image], "path").to_pylist())

    def count(self, group: int) -> int:
        """How many rows a group has."""
        if self._batches is not None:
            return len(self._batches[group])
        return int(self._parquet.metadata.row_group(group).num_rows)

    @property
    def _is_struct(self) -> bool:
        import pyarrow as pa

        return bool(pa.types.is_struct(self.schema.field(self.image).type))

    def _columns(self, group: int, names: list[str]) -> dict[str, Any]:
        if self._batches is not None:
            batch = self._batches[group]
            return {name.split(".")[0]: batch.column(name.split(".")[0]) for name in names}
        # More than 2 GB of pictures come in several chunks.
        found = self._parquet.read_row_group(group, columns=names)
        return {name: found.column(name) for name in found.column_names}


def _field(column: Any, name: str) -> Any:
    from pyarrow.compute import struct_field

    return struct_field(column, name)


def open_table(path: Path) -> _Table:
    """A Parquet or Arrow file. Raises InputError if it cannot be read, or pyarrow is absent."""
    pyarrow(str(path))
    try:
        return _Table(path)
    except _unreadable() as error:
        kind = path.suffix[1:]
        raise InputError(f"{path}: not a readable {kind} file ({_reason(error)})") from None


def pyarrow(wanted_for: str) -> Any:
    """The package pyarrow with its Parquet part. Raises InputError where it is not."""
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        raise InputError(
            f"{wanted_for}: Parquet and Arrow files need the package pyarrow, which is not here;"
            " type: pip install 'reslab[tables]'"
        ) from None


def _unreadable() -> tuple[type[Exception], ...]:
    """What pyarrow raises where a file is damaged, or cannot be read."""
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def _reason(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or repr(error)).splitlines()[0]


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
            except _unreadable() as error:
                gathered.problems.append(f"{path}: group {group} cannot be read ({_reason(error)})")
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
        except _unreadable() as error:
            raise InputError(f"{path}: group {group} cannot be read ({_reason(error)})") from None
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


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What Hugging Face notes of the columns in a file's schema."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: about for name, about in found.items() if isinstance(about, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
