"""DATA in packed files: one, several by braces, a folder of them, a dataset that was saved."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from reslab.disk import expanded, real_path
from reslab.errors import InputError
from reslab.pictures.files import Folder, is_picture_name
from reslab.pictures.packed import Packed, by_split, open_packed
from reslab.pictures.parquet import is_saved, open_parquet, open_saved, unlabelled_table
from reslab.pictures.shards import Shards, shard_entries, unlabelled_shard
from reslab.pictures.table import Pictures

SUFFIXES = (".tar", ".parquet")


def is_pack(name: str | Path) -> bool:
    """Whether a file is packed by its name."""
    return Path(name).suffix.lower() in SUFFIXES


def pictures_of(path: Path) -> Packed:
    """The pictures of a packed file, whatever it says of their classes. Raises InputError."""
    return unlabelled_shard(path) if path.suffix.lower() == ".tar" else unlabelled_table(path)


def open_named_packs(
    data: str, companions: Mapping[str, str], classes: tuple[str, ...] | None
) -> Pictures:
    """Packed files by their names, which may have braces.

    companions: those of other splits, by split; without, the names tell the split. Raises
    InputError.
    """
    paths = _all_there(data)
    location = Path(os.path.commonpath([path.parent for path in paths]))
    if companions:
        files = {"train": paths} | {split: _all_there(text) for split, text in companions.items()}
    else:
        files = by_split(paths, location)
    name = paths[0].stem if len(paths) == 1 else real_path(location).name
    return _opened(name, location, files, classes)


def open_folder_of_packs(
    files: Folder, name: str, classes: tuple[str, ...] | None
) -> Pictures | None:
    """The table of a folder that holds packed files and no pictures; None if it is no such."""
    if is_saved(files.location):
        return open_saved(files.location, classes)
    if any(is_picture_name(file) for file in files.names()):
        return None
    found = [files.location / file for file in files.names() if is_pack(file)]
    return (
        _opened(name, files.location, by_split(found, files.location), classes) if found else None
    )


def _all_there(text: str) -> list[Path]:
    paths = expanded(text)
    absent = [str(path) for path in paths if not path.is_file()]
    if absent:
        raise InputError(f"{text}: {len(absent):,} of {len(paths):,} files are not there:", absent)
    odd = [str(path) for path in paths if not is_pack(path)]
    if odd:
        raise InputError(f"{text}: neither tar shards nor Parquet files:", odd)
    return paths


def _opened(
    name: str,
    location: Path,
    files: Mapping[str, Sequence[Path]],
    classes: tuple[str, ...] | None,
) -> Pictures:
    suffixes = {path.suffix.lower() for paths in files.values() for path in paths}
    if len(suffixes) > 1:
        raise InputError(f"{location}: both tar shards and Parquet files; name those of one kind")
    if suffixes == {".parquet"}:
        return open_parquet(name, location, files, classes)
    found = {split: shard_entries(paths, name) for split, paths in files.items()}
    return open_packed(name, location, found, Shards, classes)
