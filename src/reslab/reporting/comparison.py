"""Several runs side by side: what differs, their scores, and whether it is more than luck."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reslab.errors import InputError
from reslab.judging.comparison import Paired, corrected, paired
from reslab.judging.predictions import read_predictions
from reslab.run.folder import Run, open_run

_SCORES = (
    "n", "accuracy", "accuracy_interval", "loss", "top5_accuracy", "balanced_accuracy", "macro_f1",
    "expected_calibration_error", "brier_score",
)  # fmt: skip
_FACTS = "data", "fingerprint", "minutes", "device_name", "threads"  # of a run, beside its recipe
_LEAST = 6  # pictures that one alone got right, below which no share of them says anything
_LIKELY = 0.05  # a p value below it is called more than luck


@dataclass(frozen=True)
class Pair:
    """Two runs on the same test pictures. `p_adjusted` is by Holm, over all pairs compared."""

    a: Run
    b: Run
    paired: Paired
    p_adjusted: float

    @property
    def verdict(self) -> str:
        """better, worse (b against a), no_verdict, or too_few pictures that one alone got right."""
        if self.paired.first_only + self.paired.second_only < _LEAST:
            return "too_few"
        if self.p_adjusted >= _LIKELY:
            return "no_verdict"
        return "better" if self.paired.difference > 0 else "worse"

    def as_dict(self) -> dict[str, Any]:
        return {
            "a": str(self.a.path),
            "b": str(self.b.path),
            "difference": self.paired.difference,
            "interval": list(self.paired.interval),
            "p_value": self.paired.p_value,
            "p_adjusted": self.p_adjusted,
            "a_only": self.paired.first_only,
            "b_only": self.paired.second_only,
            "n": self.paired.n,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """Runs in the order given, every pair of them, and what differs.

    differences: field of the recipe, or fact of the run, to its value in each run; of pictures
        that a run went `without`, or that were `left_out`, how many.
    """

    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]
    differences: dict[str, tuple[Any, ...]]

    def as_dict(self) -> dict[str, Any]:
        return {
            "runs": [
                {
                    "run": str(run.path),
                    "recipe": run.info["recipe"],
                    "network": run.info["network"],
                    "parameters": run.info["parameters"],
                    "train_seconds": run.info["seconds"].get("train"),
                    "test": {name: run.test[name] for name in _SCORES if name in run.test},
                }
                for run in self.runs
            ],
            "pairs": [pair.as_dict() for pair in self.pairs],
            "differences": {name: list(values) for name, values in self.differences.items()},
        }


def compare(runs: Sequence[str | Path]) -> Comparison:
    """Compare two or more finished runs on the test pictures that all of them were scored on.

    A pair's difference is the second's accuracy less the first's, with a paired bootstrap's 95 %
    interval and the p value of McNemar's exact test: `reslab.judging.comparison`.
    Raises InputError if a run is not finished, or if the test pictures differ.
    """
    if isinstance(runs, str | Path) or len(runs) < 2:
        raise InputError("compare: name two runs or more")
    opened = tuple(open_run(run) for run in runs)
    rights = _right_answers(opened)
    indices = list(itertools.combinations(range(len(opened)), 2))
    found = [paired(rights[one], rights[other]) for one, other in indices]
    adjusted = corrected([each.p_value for each in found])
    pairs = tuple(
        Pair(opened[one], opened[other], each, p_value)
        for (one, other), each, p_value in zip(indices, found, adjusted, strict=True)
    )
    return Comparison(opened, pairs, _differences(opened))


def _right_answers(runs: Sequence[Run]) -> list[np.ndarray]:
    """Which test pictures each run got right. Raises InputError where they are not the same."""
    first = runs[0]
    tables = []
    for run in runs:
        run.refuse_unfinished()
        if not run.test or run.classes != first.classes:  # a run without a score has no table
            raise InputError(
                f"{run.path}: its classes are not those of {first.path}, so their test pictures"
                " cannot be the same"
            )
        digests = [each.info.get("arrangement", {}).get("test") for each in (run, first)]
        rows = _table(run)
        if digests[0] != digests[1] and None not in digests:
            raise _not_comparable(run, first)
        tables.append(rows)
    # Tables may have been sorted since; a picture is known by its path, or else by its place.
    by_name = [sorted(rows, key=lambda row: row[:2]) for rows in tables]
    if any([row[:2] for row in rows] != [row[:2] for row in by_name[0]] for rows in by_name):
        if any("of" in run.test for run in runs):  # samples, each drawn by its run's seed
            raise _not_comparable(runs[-1], first)
        # Files that were renamed: the very contents in the very order, or nothing.
        for run, rows in zip(runs, tables, strict=True):
            known = run.info.get("arrangement", {}).get("test") is not None
            if not known or [row[1] for row in rows] != [row[1] for row in tables[0]]:
                raise _not_comparable(run, first)
        by_name = tables
    return [np.array([row[2] for row in rows]) for rows in by_name]


def _table(run: Run) -> list[tuple[str, str, bool]]:
    """(path, label, whether it was right) of each test picture, as the run's record counts them."""
    path = run.path / "predictions.csv"
    rows = [(name, label, label == said) for name, label, said, _ in
            read_predictions(path, run.classes)]  # fmt: skip
    counted = len(rows), sum(right for _, _, right in rows)
    if counted != (run.test["n"], run.test["correct"]):
        raise InputError(
            f"{path}: {counted[0]} rows, {counted[1]} of them right, where run.json counts"
            f" {run.test['n']} test pictures and {run.test['correct']} right"
        )
    return rows


def _not_comparable(run: Run, first: Run) -> InputError:
    return InputError(
        f"{run.path}: was not scored on the test pictures of {first.path} in their order, or its"
        " record does not show it, so a difference would say nothing of the networks;"
        " score both on one set with `reslab evaluate`"
    )


def _differences(runs: Sequence[Run]) -> dict[str, tuple[Any, ...]]:
    tables = [
        run.recipe().by_dotted_name()
        | {name: run.info.get(name) for name in _FACTS}
        | {f"counts.{split}": run.info["counts"].get(split) for split in ("train", "validation")}
        | {name: len(run.info.get(name, ())) for name in ("without", "left_out")}
        | {f"versions.{name}": value for name, value in run.info["versions"].items()}
        for run in runs
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    values = {name: tuple(table.get(name) for table in tables) for name in names}
    return {name: each for name, each in values.items() if any(one != each[0] for one in each)}
