"""Millions of pictures predicted: into a folder of shards, by any number of processes."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reslab.disk import open_regular, user_path
from reslab.errors import SHOWN_PROBLEMS, InputError
from reslab.learning.device import choose_device, computing_exactly
from reslab.networks.model_file import model_path
from reslab.pictures.arrow_table import pyarrow
from reslab.pictures.reading import in_threads
from reslab.run.display import Display
from reslab.run.lock import holding
from reslab.using.bulk import Predictor
from reslab.using.classifier import BATCH
from reslab.using.listing import Listing, expand
from reslab.using.shards import FORMAT, Format, Shards, shards_folder

SHARD = 8192  # pictures: what a kill can cost each process


@dataclass(frozen=True)
class Predicted:
    """What a call has predicted into a folder.

    pictures: of the whole list; shards: of all of it; done: shards that are there now.
    predicted: pictures of this call, in this process; unreadable: how many cannot be read in the
    shards that are there, which their rows say; problems: the first of these, 20 at most.
    """

    path: Path
    pictures: int
    shards: int
    done: int
    predicted: int
    unreadable: int
    problems: tuple[str, ...]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "path": str(self.path), "problems": list(self.problems)}


def predict(
    model: str | Path,
    pictures: str | Path | Sequence[str | Path],
    *,
    out: str | Path,
    top: int = 5,
    unknown_below: float | None = None,
    coverage: float | None = None,
    raw: bool = False,
    format: Format = "csv",
    shard_size: int = SHARD,
    device: str = "auto",
    quiet: bool = False,
) -> Predicted:
    """Predict files and folders into tables `out/part-00000.csv` and so on: a row a picture.

    Pictures in tar shards and Parquet files are read where they lie; their rows say FILE:NAME.
    The same call goes on where an earlier one was stopped or killed. Several processes share the
    shards by RANK and WORLD_SIZE, which `torchrun` sets. A row depends on its picture alone: not
    on the number of processes or threads, and not on the shards. For a few pictures there is
    `Classifier.predict`, which takes top, unknown_below, coverage and raw as here.

    shard_size: pictures a shard. format: "csv", or "parquet", which needs pyarrow.
    A picture that cannot be read has a row with its `error`.
    Raises InputError if `out` holds something else, or was begun with another model, other options
    or other pictures; OSError if it cannot be written to.
    """
    began = time.perf_counter()
    rank, world = process_share()
    if shard_size < 1:
        raise InputError(f"shard-size {shard_size}: at least 1 picture")
    if format == "parquet":
        pyarrow("--format parquet")
    named = [pictures] if isinstance(pictures, str | Path) else pictures
    listing = expand([str(one) for one in named], packed=True, without=user_path(out))
    told: dict[str, Any] = {
        "top": top, "unknown_below": unknown_below, "coverage": coverage, "raw": raw,
    }  # fmt: skip
    chosen, threads = choose_device(device), torch.get_num_threads()
    with computing_exactly(True, chosen):
        predictor = Predictor(model, chosen, **told)
        shards = Shards(shards_folder(out), {
            "format": FORMAT,
            "model": _digest_of(model_path(model)),
            "options": {**told, "format": format, "shard_size": shard_size,
                        "device": chosen.split(":")[0]},
            "pictures": len(listing),
            "listed": listing.digest(),
        })  # fmt: skip
        with holding(shards.folder, lambda: "another command") if rank == 0 else nullcontext():
            shards.claim() if rank == 0 else shards.await_claim()
            mine = shards.missing(rank, world)
            display = Display(quiet=quiet or rank > 0, silent=rank > 0)
            for note in listing.notes:
                display.warn(note)
            predicted = _predict_into(shards, mine, listing, predictor, threads, display)
            found = _predicted(shards, len(listing), predicted, began)
            if found.done == shards.count:
                shards.tidy()
    return found


def _predicted(shards: Shards, pictures: int, predicted: int, began: float) -> Predicted:
    """What is there of all, after `predicted` pictures of this call."""
    unreadable, problems = shards.unreadable(SHOWN_PROBLEMS)
    return Predicted(
        shards.folder,
        pictures,
        shards.count,
        len(shards.done()),
        predicted,
        unreadable,
        tuple(problems),
        time.perf_counter() - began,
    )


def process_share() -> tuple[int, int]:
    """(rank, number of processes) as `torchrun` says by RANK and WORLD_SIZE; (0, 1) without.

    Raises InputError if they are no such numbers.
    """
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (given[0].isdecimal() and given[1].isdecimal() and int(given[0]) < int(given[1])):
        raise InputError(f"RANK {given[0]} of WORLD_SIZE {given[1]}: no place among processes")
    return int(given[0]), int(given[1])


def _predict_into(
    shards: Shards,
    numbers: list[int],
    listing: Listing,
    predictor: Predictor,
    threads: int,
    display: Display,
) -> int:
    """Predict these shards; how many pictures they are."""
    total = sum(len(shards.rows(number)) for number in numbers)

    def work(rows: range) -> list[list[Any]]:
        return predictor.rows(listing[rows.start : rows.stop], listing.held(rows))

    def written() -> Iterator[int]:
        passes = (part for number in numbers for part in _passes(shards.rows(number)))
        # A pass keeps to one thread, so that how many there are changes no digit.
        with closing(in_threads(work, passes, ahead=16, threads=threads)) as made:
            for number in numbers:
                rows: list[list[Any]] = []
                for part in _passes(shards.rows(number)):
                    rows += next(made)
                    yield len(part)
                shards.write(number, predictor.columns, rows)

    for _ in display.counted(written(), "predicting", total):
        pass
    return total


def _passes(rows: range) -> Iterator[range]:
    """A shard's pictures in parts that pass through the network together."""
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


def _digest_of(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
