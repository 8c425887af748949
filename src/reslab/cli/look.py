"""Commands that look at runs: report, compare, runs."""

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from reslab.cli.options import Json, Language, Quiet
from reslab.cli.printing import print_columns, print_json


def report(
    *runs: Annotated[str, Parameter(help="Run folders: one to report, several to compare.")],
    out: Annotated[
        str | None,
        Parameter(
            help="The HTML file; report.html in the run's folder if not given, comparison.html here"
            " for several."
        ),
    ] = None,
    language: Language = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a run's report anew, or one that compares several: a page that needs no network.

    It is a look at the test split, and is counted as one.
    """
    from reslab.reporting.reports import report as report_

    path = report_(runs, out=out, language=language, quiet=quiet)
    if json:
        print_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        print(path)


def compare(
    *runs: Annotated[str, Parameter(help="Two run folders or more.")],
    json: Json = False,
) -> None:
    """Say what differs between runs, and whether their test scores differ by more than luck.

    The difference of a pair is the second's accuracy less the first's.
    """
    from reslab.reporting.comparison import compare as compare_

    found = compare_(runs)
    if json:
        print_json(found.as_dict())
        return
    table = [["run", "accuracy", "95 % interval", "loss", "macro F1", "parameters"]]
    for run in found.runs:
        low, high = run.test["accuracy_interval"]
        f1 = run.test.get("macro_f1")
        table.append(
            [
                str(run.path),
                f"{run.test['accuracy']:.2%}",
                f"{low:.2%} to {high:.2%}",
                f"{run.test['loss']:.4f}",
                "" if f1 is None else f"{f1:.4f}",
                f"{run.info['parameters']:,}",
            ]
        )
    print_columns(table)
    print()
    for pair in found.pairs:
        low, high = pair.paired.interval
        verdict = {
            "better": f"{pair.b.path} is better",
            "worse": f"{pair.a.path} is better",
            "no_verdict": "may be luck",
            "too_few": "too few pictures tell them apart",
        }[pair.verdict]
        adjusted = f" ({pair.p_adjusted:.2g} by Holm)" if len(found.pairs) > 1 else ""
        print(
            f"{pair.a.path} -> {pair.b.path}: {pair.paired.difference:+.2%} ({low:+.2%} to"
            f" {high:+.2%}), {pair.paired.first_only:,} and {pair.paired.second_only:,} pictures"
            f" that one alone got right, p = {pair.paired.p_value:.2g}{adjusted}: {verdict}"
        )
    if len(found.pairs) > 1:
        print(f"Verdicts go by p values after Holm's correction for {len(found.pairs)} pairs.")
    print()
    rows: list[list[str]] = [["differs", *(run.path.name for run in found.runs)]]
    rows += [[name, *(str(value) for value in each)] for name, each in found.differences.items()]
    print_columns(rows if len(rows) > 1 else [["The recipes are the same."]])


def runs(
    folder: Annotated[
        str, Parameter(help="Where to look: in it, its folders and theirs.")
    ] = "runs",
    /,
    *,
    json: Json = False,
) -> None:
    """List all runs below a folder, newest first."""
    from reslab.run.listing import list_runs, row_of

    found = list_runs(folder)
    rows = [row_of(run) for run in found.runs]
    if json:
        print_json({"runs": rows, "problems": list(found.problems)})
        return
    print_columns(
        [["began", "test", "status", "recipe", "data", "time", "run"], *map(_cells, rows)]
    )
    for problem in found.problems:
        print(f"note: {problem}", file=sys.stderr)


def _cells(row: dict[str, Any]) -> list[str]:
    accuracy, seconds = row["test_accuracy"], row["seconds"]
    return [
        row["began"][:16].replace("T", " "),
        "" if accuracy is None else f"{accuracy:.2%}",
        row["status"],
        row["recipe"],
        row["data"],
        "" if seconds is None else f"{seconds:,.0f} s",
        row["run"],
    ]
