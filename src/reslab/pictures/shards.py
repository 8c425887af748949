"""Tar shards as WebDataset has them: `key.jpg` and its label, `key.cls` or `key.json`.

Where each picture lies is found once and kept in the cache; a picture is then read by its place.
No member is unpacked, so names that lead elsewhere could do nothing; they are refused all the same.
"""

import errno
import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reslab.disk import open_regular
from reslab.errors import InputError
from reslab.pictures.arrays import keep_arrays, kept_arrays
from reslab.pictures.cache import cache_folder
from reslab.pictures.files import is_hidden, is_picture_name, some_files, stays_inside
from reslab.pictures.lists import LABEL_COLUMNS
from reslab.pictures.names import Names
from reslab.pictures.packed import (
    Packed,
    PackedEntries,
    PackedList,
    Place,
    in_order,
    packed_entries,
    unlabelled,
)

FORMAT = 1
LARGEST_LABEL = 1 << 20  # bytes of a member that tells a label
_BESIDE = (".cls", ".json", ".txt")  # what shards tell of their pictures
_SLACK = 1 << 24  # bytes after a shard's end that are looked at


class Shards(Packed):
    """The pictures in tar files, read by their places: offset and size."""

    def _read(self, part: int, place: Place, most: int) -> bytes:
        offset, size = place
        if size > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:,.0f} MB")
        with open_regular(self._files[part]) as shard:
            found = os.fstat(shard.fileno())
            if (found.st_size, found.st_mtime_ns) != (self._sizes[part], self._times[part, 0]):
                raise OSError(errno.ESTALE, "the shard has changed since it was opened")
            shard.seek(offset)
            data = shard.read(size)
        if len(data) < size:
            raise OSError(errno.EIO, "the shard ends within the picture")
        return data


def shard_entries(files: Sequence[Path], name: str) -> PackedEntries:
    """What the shards hold, from the cache where they have not changed since it was found.

    Raises InputError with everything that is wrong with them.
    """
    kept = _place("labelled", files)
    known = kept_arrays(kept, FORMAT)
    if known is not None:
        words, arrays = known[0]["words"], known[1]
        return packed_entries(name, files, Names(arrays.pop("paths")), words=words, **arrays)
    gathered = PackedList()
    for part, path in enumerate(files):
        _index(part, path, gathered)
    found = gathered.entries(files, name)
    arrays = {
        "paths": found.paths.text(),
        "labels": found.labels,
        "parts": found.parts,
        "places": found.places,
    }
    keep_arrays(kept, arrays, {"format": FORMAT, "words": list(found.words)})
    return found


def unlabelled_shard(path: Path) -> Packed:
    """The pictures of a shard, whatever else it holds; found once, as `shard_entries` does it.

    Raises InputError.
    """
    kept = _place("pictures", [path])
    known = kept_arrays(kept, FORMAT)
    if known is not None:
        paths, places = Names(known[1]["paths"]), known[1]["places"]
        return unlabelled(Shards, path, paths, places, known[0]["others"])
    wrong: list[str] = []
    pictures: list[tuple[str, Place]] = []
    others: list[str] = []
    with _readable(path, wrong), open_regular(path) as file:
        for member in _members(file, path, wrong):
            if is_picture_name(member.name):
                pictures.append((member.name, (member.offset, member.size)))
            elif not member.name.lower().endswith(_BESIDE):
                others.append(member.name)
    if wrong:
        raise InputError(f"{path}: {len(wrong):,} problem(s) in what is packed:", wrong)
    names, places = in_order(pictures)
    told = some_files(others) if others else ""
    header = {"format": FORMAT, "others": told}
    keep_arrays(kept, {"paths": names.text(), "places": places}, header)
    return unlabelled(Shards, path, names, places, told)


def _place(kind: str, files: Sequence[Path]) -> Path:
    """Where the cache keeps what was found in these files as they are."""
    facts = [
        (os.path.realpath(path), one.st_size, one.st_mtime_ns)
        for path, one in zip(files, [path.stat() for path in files], strict=True)
    ]
    told = repr((kind, facts)).encode("utf-8", "surrogateescape")
    digest = hashlib.blake2b(told, digest_size=16)
    return cache_folder() / "shards" / f"{digest.hexdigest()}.safetensors"


@dataclass(frozen=True)
class _Member:
    name: str
    offset: int
    size: int


def _index(part: int, path: Path, gathered: PackedList) -> None:
    """Add what a shard holds."""
    wrong: list[str] = []
    with _readable(path, wrong), open_regular(path) as file:
        pictures, labels, others = _by_key(_members(file, path, wrong), path, wrong)
        for key, picture in pictures.items():
            if key not in labels:
                wrong.append(f"{path}:{picture.name}: no label: {key}.cls or {key}.json")
                continue
            word, problem = _label(file, labels[key])
            if problem:
                wrong.append(f"{path}:{labels[key].name}: {problem}")
                continue
            gathered.append(picture.name, word, part, (picture.offset, picture.size))
        wrong += [
            f"{path}:{label.name}: a label without a picture, or one of another kind"
            for key, label in labels.items()
            if key not in pictures and (key in others or label.name.lower().endswith(".cls"))
        ]
    gathered.problems += wrong


@contextmanager
def _readable(path: Path, wrong: list[str]) -> Iterator[None]:
    """Note what is wrong with a shard that cannot be read to its end."""
    try:
        yield
    except (tarfile.TarError, OSError, EOFError, ValueError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        wrong.append(
            f"{path}: not a readable tar archive ({reason}); a compressed one must be unpacked"
            " first, for its members have no places of their own"
        )


def _by_key(
    members: Iterable[_Member], path: Path, wrong: list[str]
) -> tuple[dict[str, _Member], dict[str, _Member], set[str]]:
    """The pictures and the labels of a shard by their key, in their order; other files' keys."""
    pictures: dict[str, _Member] = {}
    labels: dict[str, _Member] = {}
    others: set[str] = set()
    for member in members:
        key, _, suffix = member.name.rpartition(".")
        kind = suffix.lower()
        if is_picture_name(member.name):
            _add(pictures, key, member, path, wrong)
        elif kind == "cls" or (kind == "json" and key not in labels):
            _add(labels, key, member, path, wrong, instead=".json")
        else:
            others.add(key)
    return pictures, labels, others


def _members(file: BinaryIO, path: Path, wrong: list[str]) -> Iterator[_Member]:
    """What a shard holds, in its order; noting what is wrong with it."""
    size = os.fstat(file.fileno()).st_size
    seen: set[str] = set()
    with tarfile.open(fileobj=file, mode="r:") as shard:
        while (info := shard.next()) is not None:
            shard.members = []  # type: ignore[attr-defined]  # it would keep all of them
            name = info.name.removeprefix("./")
            inside = stays_inside(name)
            if info.isdir() or (inside and is_hidden(name)):
                continue
            problem = _refused(info, size) if inside else "no path inside the archive"
            if not problem and name in seen:
                problem = "stands there twice"
            if problem:
                wrong.append(f"{path}:{info.name}: {problem}")
                continue
            seen.add(name)
            yield _Member(name, info.offset_data, info.size)
        end = shard.offset
    _refuse_unended(file, end, size, path, wrong)


def _add(
    found: dict[str, _Member],
    key: str,
    member: _Member,
    path: Path,
    wrong: list[str],
    instead: str = "",
) -> None:
    """Add a member, which may take the place of one that ends in `instead`."""
    earlier = found.get(key)
    if earlier is not None and not (instead and earlier.name.lower().endswith(instead)):
        wrong.append(
            f"{path}:{member.name}: and {earlier.name}; a key has one picture and one label"
        )
    else:
        found[key] = member


def _refused(info: tarfile.TarInfo, size: int) -> str:
    """Why a member is not taken, or ""."""
    if info.issym() or info.islnk():
        return "a link; shards hold files"
    if not info.isreg():
        return "neither a file nor a folder"
    if info.issparse():
        return "a sparse file, whose bytes do not lie together; pack it without --sparse"
    if info.size < 0 or info.offset_data + info.size > size:
        return "the shard ends within it: it is truncated"
    return ""


def _refuse_unended(file: BinaryIO, end: int, size: int, path: Path, wrong: list[str]) -> None:
    """Note a shard that does not end as one does: it may be cut off, damaged or two in one."""
    file.seek(min(end, size))
    rest = file.read(_SLACK)
    if len(rest) < 512 or rest[:512].strip(b"\0"):
        wrong.append(f"{path}: no end of the archive after {end:,} bytes: truncated or damaged")
    elif rest.strip(b"\0"):
        wrong.append(f"{path}: holds more after its end; pack it as one archive")


def _label(file: BinaryIO, member: _Member) -> tuple[str, str]:
    """The label that a member tells, and what is wrong with it."""
    if member.size > LARGEST_LABEL:
        return "", f"larger than {LARGEST_LABEL / 1e6:,.0f} MB, so no label"
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode("utf-8-sig").strip()
        if member.name.lower().endswith(".json"):
            text = _label_in(json.loads(text))
    except (ValueError, RecursionError):
        return "", "not UTF-8, or no JSON object"
    if not text:
        return "", f"no label; JSON names it {' or '.join(LABEL_COLUMNS[:2])}"
    return text, "a NUL byte in the label" if "\0" in text else ""


def _label_in(found: object) -> str:
    if isinstance(found, dict):
        for name in (*LABEL_COLUMNS, "cls"):
            label = found.get(name)
            if isinstance(label, str | int) and not isinstance(label, bool):
                return str(label).strip()
    return ""
