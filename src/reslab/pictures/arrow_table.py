"""A Parquet or Arrow file as a table: its column of pictures, its labels, its groups of rows."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from reslab.errors import InputError
from reslab.pictures.lists import LABEL_COLUMNS

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png")


class Table:
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
        twice = [name for name, count in Counter(self.schema.names).items() if count > 1]
        if twice:
            raise InputError(f"{path}: several columns are called {', '.join(twice)}")
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


def open_table(path: Path) -> Table:
    """A Parquet or Arrow file. Raises InputError if it cannot be read, or pyarrow is absent."""
    pyarrow(str(path))
    try:
        return Table(path)
    except unreadable() as error:
        kind = path.suffix[1:]
        raise InputError(f"{path}: not a readable {kind} file ({reason(error)})") from None


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


def unreadable() -> tuple[type[Exception], ...]:
    """What pyarrow raises where a file is damaged, or cannot be read."""
    import pyarrow as pa

    return (pa.ArrowException, OSError)


def reason(error: Exception) -> str:
    """The first line of what an error says."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What Hugging Face notes of the columns in a file's schema."""
    try:
        found = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: about for name, about in found.items() if isinstance(about, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
