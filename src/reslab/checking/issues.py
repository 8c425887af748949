"""What was found: an issue is a row of issues.csv, and knows the pictures to show for it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reslab.checking.findings import told
from reslab.checking.looks import Looked, Unread
from reslab.disk import write_safely
from reslab.judging.csv_text import csv_text
from reslab.pictures.issue_table import HEADER, KINDS

ORDER = ("leak", "conflicting-copy", "unreadable", "label", "exact-copy", "near-copy")


@dataclass(frozen=True)
class Issue:
    """One finding.

    score: from 0 to 1, the surer the nearer to 1. other: the picture or the words that tell more;
    finding and values: of which words, as `findings.told` takes them; row and other_row: the
    pictures' places among those looked at, if they have one.
    """

    kind: str
    split: str
    path: str
    label: str
    score: float
    other: str = ""
    suggested: str = ""
    line: str = ""
    row: int | None = None
    other_row: int | None = None
    finding: str = ""
    values: dict[str, object] = field(default_factory=dict)


def issue_of(
    looked: Looked,
    row: int,
    kind: str,
    score: float,
    *,
    other: str = "",
    finding: str = "",
    other_row: int | None = None,
    suggested: str = "",
) -> Issue:
    """An issue of a picture that was looked at; `other_row` is the picture it has to do with."""
    look = looked.looks[row]
    values: dict[str, object] = {"width": int(look["width"]), "height": int(look["height"])}
    other = told(finding, **values) if finding else other
    return Issue(
        kind,
        looked.split(row),
        looked.path(row),
        looked.classes[looked.labels[row]],
        float(score),
        other if other_row is None else looked.path(other_row),
        suggested,
        looked.line(row),
        row,
        other_row,
        finding,
        values,
    )


def unreadable_issues(unread: Iterable[Unread], classes: Sequence[str]) -> list[Issue]:
    return [
        Issue("unreadable", one.split, one.path, classes[one.label], 1.0, one.reason, line=one.line)
        for one in unread
    ]


def sorted_issues(issues: Iterable[Issue]) -> list[Issue]:
    """The worst kinds first, and of a kind the surest."""
    rank = {kind: number for number, kind in enumerate(dict.fromkeys((*ORDER, *KINDS)))}
    return sorted(issues, key=lambda one: (rank[one.kind], -one.score, one.split, one.path))


def counts_of(issues: Iterable[Issue]) -> dict[str, int]:
    """How many of each kind, zero included, in the order of `KINDS`."""
    found = Counter(issue.kind for issue in issues)
    return {kind: found[kind] for kind in KINDS}


def write_issues(path: Path, issues: Iterable[Issue]) -> None:
    """Write the table. Raises InputError or OSError where it cannot be."""
    rows: list[Sequence[str]] = [HEADER]
    rows += [
        (
            one.path, one.split, one.label, one.kind, f"{one.score:.4f}", one.other, one.suggested,
        )
        for one in issues
    ]  # fmt: skip
    write_safely(path, csv_text(rows).encode("utf-8", "surrogateescape"))
