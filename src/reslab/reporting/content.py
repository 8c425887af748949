"""What a report says of one run: gathered from its folder, and from its pictures if they are there.

Nothing here depends on when, where or how fast the run went, so a run that was killed and resumed
has the report of one that never was; but what a training by the clock did with its time is told.
"""

import shlex
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reslab.errors import InputError
from reslab.judging.metrics import confusion_of
from reslab.judging.predictions import read_predictions
from reslab.judging.sheet import each_class_in_turn
from reslab.networks.measuring import NetworkSummary, measure
from reslab.networks.model_file import Model, load_model
from reslab.pictures.table import Pictures
from reslab.reporting.thumbnails import Thumbnail, seen, thumbnail, where_it_looked
from reslab.run.folder import Run
from reslab.run.looks import count_looks, looks_of

SAMPLES, MISTAKES, PAIRS = 24, 12, 20  # shown of each, at most


@dataclass(frozen=True)
class Answer:
    """A test picture's true class, what the network said, and how sure it was."""

    row: int
    path: str
    label: str
    prediction: str
    probability: float

    @property
    def right(self) -> bool:
        return self.label == self.prediction


@dataclass(frozen=True)
class Shown:
    """A picture with what is said of it; `map` is where the network looked."""

    picture: Thumbnail
    label: str
    answer: Answer | None = None
    map: Thumbnail | None = None


@dataclass(frozen=True)
class Content:
    """All that a report says.

    scores: those of the test split, of validation if there is none, else nothing.
    answers: every test picture. samples, mistakes: none where the pictures could not be had.
    """

    run: Run
    split: str | None
    scores: dict[str, Any]
    history: list[dict[str, Any]]
    answers: list[Answer]
    looks: int
    watched: int
    network: NetworkSummary
    recipe: str
    command: str
    samples: list[Shown]
    mistakes: list[Shown]
    has_pictures: bool
    has_maps: bool

    @property
    def info(self) -> dict[str, Any]:
        return self.run.info

    @property
    def classes(self) -> tuple[str, ...]:
        return self.run.classes

    def pairs(self) -> list[dict[str, Any]]:
        """The pairs of classes that are most often confused, by how often."""
        table = confusion_of(self.scores)
        totals = table.sum(axis=1)
        np.fill_diagonal(table, 0)
        order = np.argsort(-table, axis=None, kind="stable")[:PAIRS]
        found = []
        for row, column in zip(*np.unravel_index(order, table.shape), strict=True):
            if not table[row, column]:
                break
            found.append(
                {
                    "true": self.classes[row],
                    "said": self.classes[column],
                    "times": int(table[row, column]),
                    "share": float(table[row, column] / totals[row]),
                }
            )
        return found

    def commonest(self) -> tuple[str, float] | None:
        """The class that most pictures of the split have, and its share of them."""
        counts = {name: each["n"] for name, each in self.scores.get("per_class", {}).items()}
        if not counts:
            return None
        name = max(counts, key=lambda each: counts[each])
        return name, counts[name] / sum(counts.values())

    def coverage(self) -> list[tuple[float, float]]:
        """(share of pictures answered, accuracy of these), the surest answers first."""
        order = sorted(self.answers, key=lambda answer: -answer.probability)
        right = np.cumsum([answer.right for answer in order])
        counts = np.arange(1, len(order) + 1)
        # Of the first few pictures an accuracy says nothing yet.
        first = min(len(order), max(10, len(order) // 100))
        rows = np.unique(np.linspace(first - 1, len(order) - 1, 120).round().astype(int))
        return [(counts[row] / len(order), right[row] / counts[row]) for row in rows.tolist()]

    def thresholds(self) -> list[dict[str, Any]]:
        """What is answered, and how well, where less sure answers are called unknown."""
        sure = np.array([answer.probability for answer in self.answers])
        right = np.array([answer.right for answer in self.answers])
        found = []
        for least in (0.5, 0.7, 0.8, 0.9, 0.95, 0.99):
            kept = sure >= least
            found.append(
                {
                    "least": least,
                    "answered": float(kept.mean()),
                    "right": float(right[kept].mean()) if kept.any() else None,
                }
            )
        return found


def gather(run: Run, pictures: Pictures | None, *, maps: bool = True) -> Content:
    """The report of a run that has been judged.

    pictures: those it was trained on, split as they were; None if they cannot be had. maps: whether
    to compute where the network looked.
    Raises InputError if its files are damaged.
    """
    info = run.info
    split = next((name for name in ("test", "validation") if info.get(name)), None)
    scores = info[split] if split else {}
    if split and "per_class" not in scores:
        raise InputError(
            f"{run.path}: trained by reslab 0.1.0, whose record lacks what a report needs; train"
            " again, or score it with `reslab evaluate`"
        )
    model = load_model(run.model)
    answers = answers_of(run)
    history = run.history
    looks = count_looks(run.path, history)
    samples: list[Shown] = []
    mistakes: list[Shown] = []
    has_maps = True
    if pictures is not None:
        try:
            pictures = as_answered(answers, pictures)
            samples = _samples(pictures, model)
            mistakes, has_maps = _mistakes(pictures, answers, model, maps=maps)
        except InputError:  # a file is gone: what was measured can be told all the same.
            pictures = None
    return Content(
        run=run,
        split=split,
        scores=scores,
        history=history,
        answers=answers,
        looks=looks,
        watched=looks - len(looks_of(run.path)),
        network=measure(model.network, model.spec),
        recipe=run.recipe().to_toml(),
        command=command_of(info["source"], by_plan=info.get("by_plan", False)),
        samples=samples,
        mistakes=mistakes,
        has_pictures=pictures is not None,
        has_maps=has_maps,
    )


def as_answered(answers: list[Answer], pictures: Pictures) -> Pictures:
    """The pictures with those of the test split that were scored, which may be a sample of it.

    Raises InputError if a table that was sorted since would show other pictures than it names.
    """
    if not answers:
        return pictures
    whole = pictures.splits["test"]
    left = iter(answers)
    wanted, rows = next(left, None), []
    for row, path in enumerate(whole.paths):
        if wanted is not None and path == wanted.path:
            rows.append(row)
            wanted = next(left, None)
    if wanted is not None:
        raise InputError("predictions.csv does not name the test pictures in their order")
    if len(rows) == len(whole):
        return pictures
    return replace(pictures, splits=pictures.splits | {"test": whole.take(np.array(rows))})


def command_of(
    source: dict[str, Any], recipe: str = "recipe.toml", *, by_plan: bool = False
) -> str:
    """The command that trains a recipe on data; without its place, given in the run's folder."""
    by = ["--plan", "plan.toml"] if by_plan else ["--recipe", recipe]
    words = ["reslab", "train", source["data"], *by]
    for name in ("test", "val", "root", "data_root", "without", "kinds"):
        if source.get(name):
            words += [f"--{name.replace('_', '-')}", source[name]]
    if source.get("leave_out_unreadable"):
        words.append("--leave-out-unreadable")
    return shlex.join(words)


def answers_of(run: Run) -> list[Answer]:
    """What a run answered on the test split, if that was scored. Raises InputError."""
    if not run.info.get("test"):
        return []
    rows = read_predictions(run.path / "predictions.csv", run.classes)
    return [Answer(number, *row) for number, row in enumerate(rows)]


def _samples(pictures: Pictures, model: Model) -> list[Shown]:
    train = pictures.splits["train"]
    held = len(np.unique(train.labels))
    rows = each_class_in_turn(train.labels, held * max(1, SAMPLES // held) if held else SAMPLES)
    rows = rows[:SAMPLES]
    rows = rows[np.argsort(train.labels[rows], kind="stable")]
    return [
        Shown(thumbnail(picture.permute(1, 2, 0).numpy()), pictures.classes[train.labels[row]])
        for row, picture in zip(rows, seen(train, rows, model), strict=True)
    ]


def _mistakes(
    pictures: Pictures, answers: list[Answer], model: Model, *, maps: bool
) -> tuple[list[Shown], bool]:
    """The most confident mistakes, and whether it is shown where the network looked."""
    wrong = sorted((each for each in answers if not each.right), key=lambda a: -a.probability)
    wrong = wrong[:MISTAKES]
    if not wrong:
        return [], True
    test = pictures.splits["test"]
    rows = np.array([answer.row for answer in wrong])
    pixels = seen(test, rows, model)
    said = np.array([model.classes.index(answer.prediction) for answer in wrong])
    drawn = where_it_looked(pixels, said, model) if maps else None
    return [
        Shown(
            thumbnail(picture.permute(1, 2, 0).numpy()),
            answer.label,
            answer,
            None if drawn is None else thumbnail(drawn[number]),
        )
        for number, (answer, picture) in enumerate(zip(wrong, pixels, strict=True))
    ], drawn is not None
