"""A folder of predictions in shards: what it is of, which shards are done, how one is written.

A shard appears whole or not at all. The manifest says what the shards are of, so that a second
start cannot mix two models, ways of asking or lists of pictures.
"""

import io
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from reslab.disk import folder_to_fill, read_regular, write_safely
from reslab.errors import InputError
from reslab.pictures.arrow_table import pyarrow
from reslab.pictures.files import printable
from reslab.using.tables import ERROR, Cell, Columns, csv_of

MANIFEST = "manifest.json"
FORMAT = 1
Format = Literal["csv", "parquet"]
_SHARD = re.compile(r"part-(\d{5,})\.(csv|parquet)")
_UNREADABLE = re.compile(r"unreadable-(\d{5,})\.txt")
_LEFTOVER = re.compile(
    r"\.(part-\d{5,}\.(csv|parquet)|unreadable-\d{5,}\.txt|manifest\.json)\.\d+\.tmp"
)
_PATIENCE = 600.0  # seconds that a process waits for the first one's manifest
_TOLD = {  # what differs, in the order in which it is told
    "format": "the format of the folder",
    "model": "the model: another one",
    "pictures": "the number of pictures",
    "listed": "the pictures: other paths, or another order",
}


class Shards:
    """The folder. `manifest` is what its shards are of; of the same manifest they are the same."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.size: int = manifest["options"]["shard_size"]
        self.count = -(-manifest["pictures"] // self.size)
        self._suffix: Format = manifest["options"]["format"]

    def claim(self) -> None:
        """Write the manifest, or compare it with the one that is there.

        Raises InputError if that is of something else, or the folder holds other files.
        """
        if not (self.folder / MANIFEST).exists():
            others = sorted(path.name for path in self.folder.iterdir() if path.name[0] != ".")
            if others:
                raise InputError(
                    f"--out {self.folder}: holds {printable(others[0])} and no {MANIFEST}; name a"
                    " folder that is new or empty"
                )
            text = json.dumps(self.manifest, ensure_ascii=False, indent=2)
            write_safely(self.folder / MANIFEST, f"{text}\n".encode())
        self.compare()

    def await_claim(self) -> None:
        """Wait until the first process has written the manifest, and compare. Raises InputError."""
        began = time.monotonic()
        while not (self.folder / MANIFEST).exists():
            if time.monotonic() - began > _PATIENCE:
                raise InputError(
                    f"{self.folder}: no {MANIFEST} after {_PATIENCE:.0f} s; the process of rank 0"
                    " writes it, so start that one too"
                )
            time.sleep(0.1)
        self.compare()

    def compare(self) -> None:
        """Raise InputError naming all in which this work differs from what the folder holds."""
        path = self.folder / MANIFEST
        try:
            there = json.loads(read_regular(path))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); name another --out") from None
        if not isinstance(there, dict):
            raise InputError(f"{path}: no manifest of predictions; name another --out")
        problems = []
        for field, told in _TOLD.items():
            old, new = there.get(field), self.manifest[field]
            if old != new:
                problems.append(told if ":" in told else f"{told}: {old} there, {new} now")
        options, own = there.get("options"), self.manifest["options"]
        before = options if isinstance(options, dict) else {}
        for name, new in own.items():
            if before.get(name) != new:
                problems.append(f"{name.replace('_', '-')}: {before.get(name)} there, {new} now")
        if problems:
            raise InputError(
                f"--out {self.folder}: begun with something else; give the same again to go on, or"
                " name another folder:",
                problems,
            )

    def done(self) -> set[int]:
        """The numbers of the shards that are there."""
        found = (_SHARD.fullmatch(path.name) for path in self.folder.iterdir())
        return {int(one[1]) for one in found if one and one[2] == self._suffix}

    def missing(self, rank: int, world: int) -> list[int]:
        """The shards that are not there, of those that fall to one of several processes."""
        there = self.done()
        return [number for number in range(rank, self.count, world) if number not in there]

    def path(self, number: int) -> Path:
        return self.folder / f"part-{number:05d}.{self._suffix}"

    def rows(self, number: int) -> range:
        """Which pictures a shard is of."""
        start = number * self.size
        return range(start, min(start + self.size, self.manifest["pictures"]))

    def write(self, number: int, columns: Columns, rows: Sequence[Sequence[Cell]]) -> None:
        """Let a shard appear whole, after a list of its pictures that cannot be read, if there are
        any. Raises OSError naming the file."""
        made: Callable[..., bytes] = csv_of if self._suffix == "csv" else _parquet_of
        errors = [str(row[ERROR]) for row in rows if row[ERROR] is not None]
        listed = self.folder / f"unreadable-{number:05d}.txt"
        if errors:
            text = "".join(f"{' '.join(error.splitlines())}\n" for error in errors)
            write_safely(listed, text.encode("utf-8", "surrogateescape"))
        else:  # of a start that was killed, where the pictures have been mended since
            listed.unlink(missing_ok=True)
        write_safely(self.path(number), made(columns, rows))

    def unreadable(self, most: int) -> tuple[int, list[str]]:
        """How many pictures of the shards that are there cannot be read; the first reasons."""
        there = self.done()
        found = [(_UNREADABLE.fullmatch(path.name), path) for path in self.folder.iterdir()]
        count, told = 0, list[str]()
        for path in sorted(path for match, path in found if match and int(match[1]) in there):
            lines = read_regular(path).decode("utf-8", "surrogateescape").splitlines()
            count += len(lines)
            told += lines[: most - len(told)]
        return count, told

    def tidy(self) -> None:
        """Remove what killed processes began; only once no process writes here any more."""
        for path in self.folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)


def shards_folder(out: str | Path) -> Path:
    """The folder, made if it is not there. Raises InputError if it cannot be one."""
    path = folder_to_fill(out, "--out")
    path.mkdir(exist_ok=True)
    return path


def _parquet_of(columns: Columns, rows: Sequence[Sequence[Cell]]) -> bytes:
    arrow = pyarrow("--format parquet")
    text, names = arrow.string(), columns.names()
    kinds = {"set": arrow.list_(text)}
    kinds |= {name: arrow.float64() for name in names if name.startswith("probability")}
    schema = arrow.schema([(name, kinds.get(name, text)) for name in names])
    held = {name: [row[column] for row in rows] for column, name in enumerate(names)}
    held["path"] = [printable(str(path)) for path in held["path"]]
    written = io.BytesIO()
    arrow.parquet.write_table(arrow.table(held, schema), written)
    return written.getvalue()
