"""What commands print: JSON, scores, runs."""

import errno
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def is_unread(error: OSError) -> bool:
    """Whether an error says that nobody reads any more, such as `head`, which has seen enough."""
    windows = os.name == "nt" and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or windows


def flush_what_is_read() -> None:
    """Flush standard output, if there is one and somebody reads it. Raises OSError: a full disk."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer would be tried once more, and told of, while Python leaves.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not is_unread(error):
            raise


def print_while_read(show: Callable[[], None]) -> None:
    """Print something, or nothing where nobody reads any more."""
    try:
        show()
    except OSError as error:
        if not is_unread(error):
            raise
        flush_what_is_read()


def print_json(value: Any) -> None:
    # What another encoding lacks would be written as Python escapes it, which is no JSON.
    encoding = (sys.stdout.encoding or "utf-8") if sys.stdout is not None else "utf-8"
    ascii_alone = encoding.lower().replace("-", "") != "utf8"
    print(json.dumps(value, ensure_ascii=ascii_alone, allow_nan=False), flush=True)


def print_run(run: Any, as_json: bool) -> None:
    """A finished run: its scores, and where it lies."""
    if as_json:
        print_json({"run": str(run.path), **run.info})
        return
    for split in ("validation", "test"):
        if run.info.get(split):
            print_score(split, run.info[split])
            if run.info[split].get("folds"):
                print(f"{'':12}cross-validated, {run.info[split]['folds']} folds")
    seconds = run.info["seconds"]
    if run.info.get("best_strength") is not None:
        print(f"best head   strength of regularisation {run.info['best_strength']:.3g}")
    else:
        print(f"best epoch  {run.info['best_epoch']} (epochs count from 0)")
    print(f"time        {seconds['total']:.1f} s, of which training {seconds['train']:.1f} s")
    print(f"run         {run.path}")
    if (run.path / "report.html").exists():  # by the clock there may have been no time for it
        print(f"report      {run.path / 'report.html'}")


def print_prediction(found: Any) -> None:
    """A picture's likeliest classes, whether it is unknown, and its set if one was wanted."""
    guesses = "  ".join(f"{guess.label} {guess.probability:.1%}" for guess in found.top)
    doubt = f"{found.label}  " if found.unknown else ""
    among = "" if found.set is None else f"  set: {', '.join(found.set)}"
    print(f"{found.path}: {doubt}{guesses}{among}")


def print_predicted(found: Any) -> None:
    """What of a folder of predictions is done."""
    if not found.predicted and found.done == found.shards:
        print(
            f"{found.path}: finished before: {found.pictures:,} pictures, {found.shards:,} tables"
        )
        return
    rate = found.predicted / max(found.seconds, 1e-9)
    print(
        f"predicted   {found.predicted:,} pictures in {found.seconds:.1f} s, {rate:,.0f} a second"
    )
    print(f"tables      {found.path}, {found.done:,} of {found.shards:,} there")


def print_score(what: str, score: dict[str, Any]) -> None:
    low, high = score["accuracy_interval"]
    sample = f", a sample of {score['of']:,}" if "of" in score else ""
    print(
        f"{what:10}  accuracy {score['accuracy']:.2%}"
        f" ({score['correct']:,} of {score['n']:,}{sample};"
        f" 95 % interval {low:.2%} to {high:.2%}), loss {score['loss']:.4f}"
    )


def print_columns(rows: list[list[str]]) -> None:
    """Rows of text in columns; a Chinese character takes two places."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


_TOLD = {  # what each kind of issue means, in a word or two
    "leak": "copies in a later split too",
    "conflicting-copy": "copies whose labels disagree",
    "unreadable": "cannot be read",
    "label": "likely wrong labels",
    "exact-copy": "exact copies",
    "near-copy": "near copies",
    "mismatched-type": "types that differ from their names",
    "outlier": "far from all others",
    "odd": "odd pictures",
    "set": "findings about the whole set",
}


def print_check(found: Any) -> None:
    """What a check found, the worst first."""
    print(f"{found.data}: {found.pictures:,} pictures")
    rows = [
        [kind, f"{found.counts[kind]:,}", told]
        for kind, told in _TOLD.items()
        if found.counts[kind]
    ]
    print_columns(rows or [["nothing found"]])
    if found.cleaned is not None:
        print(f"lists       without {found.cleaned:,} of them")
    print(f"issues      {found.path}")
    print(f"page        {found.page}")
