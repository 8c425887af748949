"""The doctor's page: what is wrong with the data, pictures side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reslab.checking.issues import Issue, counts_of
from reslab.checking.looks import Looked
from reslab.errors import InputError
from reslab.pictures.decoding import decode
from reslab.pictures.files import printable
from reslab.pictures.issue_table import HARMFUL
from reslab.pictures.reading import in_threads, read_picture
from reslab.reporting.page import rendered, write_page
from reslab.reporting.thumbnails import Thumbnail, thumbnail

_SHOWN = 24  # findings of a kind
_DECODED = 256  # pixels that a large JPEG's sides keep at least


@dataclass(frozen=True)
class Picture:
    """A picture of a finding: where it stands, and itself if it can be read."""

    path: str
    split: str
    line: str
    label: str
    shown: Thumbnail | None


@dataclass(frozen=True)
class Finding:
    issue: Issue
    picture: Picture | None
    other: Picture | None


@dataclass(frozen=True)
class Kind:
    """Findings of one kind: the first ones, and how many there are."""

    name: str
    count: int
    findings: list[Finding]


def write_check(
    path: Path,
    looked: Looked,
    issues: Sequence[Issue],
    not_judged: Sequence[str],
    language: str,
) -> None:
    """Write the page of issues that are sorted, the worst kind first."""
    counts = counts_of(issues)
    shown = {
        kind: [one for one in issues if one.kind == kind][: None if kind == "set" else _SHOWN]
        for kind in dict.fromkeys(one.kind for one in issues)
    }
    thumbs = _thumbnails(looked, [one for few in shown.values() for one in few])
    kinds = [
        Kind(kind, counts[kind], [_finding(looked, one, thumbs) for one in few])
        for kind, few in shown.items()
    ]
    named = {(one.split, one.path) for one in issues if one.path}
    wrong = {(one.split, one.path) for one in issues if one.kind in HARMFUL}
    text = rendered(
        "check.html.jinja",
        language,
        "check_title",
        names={"data": looked.pictures.name},
        data=looked.pictures.name,
        pictures=len(looked) + len(looked.unread),
        named=len(named),
        wrong=len(wrong),
        kinds=kinds,
        not_judged=not_judged,
    )
    write_page(path, text)


def _finding(looked: Looked, issue: Issue, thumbs: dict[int, Thumbnail]) -> Finding:
    own = None
    if issue.path:
        line = printable(Path(issue.line).name)
        own = Picture(
            printable(issue.path), issue.split, line, issue.label,
            None if issue.row is None else thumbs.get(issue.row),
        )  # fmt: skip
    other = issue.other_row
    return Finding(
        issue,
        own,
        None
        if other is None
        else Picture(
            printable(looked.path(other)),
            looked.split(other),
            printable(Path(looked.line(other)).name),
            looked.classes[looked.labels[other]],
            thumbs.get(other),
        ),
    )


def _thumbnails(looked: Looked, issues: Sequence[Issue]) -> dict[int, Thumbnail]:
    rows = {row for one in issues for row in (one.row, one.other_row) if row is not None}

    def made(row: int) -> tuple[int, Thumbnail | None]:
        _, samples, own = looked.place(row)
        try:
            pixels = read_picture(samples, own, 3, lambda data: decode(data, 3, _DECODED))
        except InputError:  # gone meanwhile
            return row, None
        return row, thumbnail(pixels.permute(1, 2, 0).numpy())

    return {row: shown for row, shown in in_threads(made, sorted(rows)) if shown is not None}
