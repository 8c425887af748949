"""A search while a process works on it: propose, train, judge on validation, record."""

import math
import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reslab.errors import InputError, InterruptedRunError
from reslab.learning.device import lacks_memory
from reslab.learning.state import Milestone
from reslab.pictures.data_source import DataSource
from reslab.pictures.table import Pictures
from reslab.process import command_or
from reslab.recipes.recipe import Recipe
from reslab.reporting.content import command_of
from reslab.run.display import Display
from reslab.run.interruption import catching_signals
from reslab.searching.bench import Bench
from reslab.searching.proposals import Proposal
from reslab.searching.record import (
    BEST_FILE,
    RECORD_FILE,
    Record,
    Search,
    Trial,
    Validation,
    read_record,
    write_best,
    write_record,
)
from reslab.searching.space import Space, described, holds
from reslab.training.description import FEW, circumstances
from reslab.training.inputs import with_whole_paths


class _TimeIsUpError(Exception):
    """The minutes are over while a trial is under way."""


@dataclass
class Work:
    """A search while a process works on it."""

    folder: Path
    base: Recipe
    space: Space
    device: str
    display: Display
    began: float
    source: DataSource
    pictures: Pictures
    whole: Pictures

    def check(self) -> None:
        """Prepare the recipe once, so that what does not fit is said before anything is written."""
        self._caught: list[int] = []
        self._minutes: float | None = None
        self._bench = Bench(self.whole, self.device, self.display, self._stop)
        self._precision = self._bench.settled(self.base)

    def begin(self) -> None:
        """Take up the record that stands in the folder, or begin one."""
        for name in (RECORD_FILE, BEST_FILE):
            for leftover in self.folder.glob(f".{name}.*.tmp"):  # half written by a killed process
                leftover.unlink(missing_ok=True)
        found = read_record(self.folder)
        if found is None:
            found = self._new_record(self._precision)
        else:
            self._refuse_other(found)
        self._seconds_before = found.seconds
        self.record = found
        self.record.status = "running"
        self.record.process = f"process {os.getpid()} on {platform.node()}"
        self._save()
        self._announce()

    def _new_record(self, precision: str) -> Record:
        return Record(
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            data=self.pictures.name,
            source=self.source.model_dump(),
            fingerprint=self.pictures.fingerprint(),
            arrangement=self._arrangement(),
            counts=self.whole.counts(),
            recipe=self.base.model_dump(mode="json"),
            precision=precision,
            over=described(self.space),
            circumstances=self._circumstances(),
        )

    def _arrangement(self) -> dict[str, str]:
        """Of what trials see: the test split may change, and they are as they were."""
        return {n: digest for n, digest in self.whole.arrangement().items() if n != "test"}

    def _circumstances(self) -> dict[str, Any]:
        found = circumstances(self.device)
        return found | {"versions": found["versions"] | {"optuna": version("optuna")}}

    def _refuse_other(self, record: Record) -> None:
        """Raise InputError naming what is asked otherwise than when the search began."""
        before = Recipe.model_validate(record.recipe).by_dotted_name()
        now = self.base.by_dotted_name()
        other = [
            f"{name} = {now[name]} where it has {before[name]}"
            for name in now
            if now[name] != before[name]
        ]
        over = described(self.space)
        over_differs = over != record.over
        for name in sorted(record.over.keys() | over.keys()):
            if record.over.get(name) != over.get(name):
                was = record.over.get(name, "nothing")
                other.append(f"--over {name}: {over.get(name, 'nothing')} where it has {was}")
        for number, trial in enumerate(record.trials):
            if not over_differs and (trial.number != number or not holds(self.space, trial.fields)):
                other.append(f"{RECORD_FILE}: trial {trial.number} is none of this search")
        if record.arrangement != self._arrangement():
            other.append(f"{self.pictures.name}: the pictures or their splits have changed")
        if other:
            raise InputError(
                f"{self.folder}: holds another search; name another --out, or ask for the same:",
                other,
            )
        for name, value in self._circumstances().items():
            if record.circumstances.get(name) != value:
                self.display.warn(
                    f"{name} is {value} where the search began with"
                    f" {record.circumstances.get(name)}: trials may differ in their last digits"
                )

    def _announce(self) -> None:
        say, record = self.display.say, self.record
        judge = f"{record.counts['validation']:,} validation pictures"
        if self.base.folds:
            judge = f"{self.base.folds} folds of {record.counts['train']:,} training pictures"
        say(f"data       {record.data}: {record.counts['train']:,} train, judged by {judge}")
        if not self.base.folds and record.counts["validation"] < FEW:
            self.display.warn("so few validation pictures choose by luck for the most part")
        say(f"recipe     {self.base.name}, network {self.base.network}, {record.precision}")
        for name, text in record.over.items():
            say(f"over       {name}: {text}")
        for note in self.whole.notes:
            self.display.warn(note)
        done = f", {len(record.trials)} trials done" if record.trials else ""
        say(f"search     {self.folder}{done}")

    def go_on(self, trials: int | None, minutes: float | None) -> None:
        """Make trials until there are as many in all, or the minutes are over."""
        with catching_signals() as self._caught:
            self._minutes = minutes
            everything = math.prod(dimension.count for dimension in self.space.values())
            while trials is None or len(self.record.trials) < trials:
                if self.record.tried >= everything:
                    self.display.say("search     nothing is left that was not tried")
                    break
                try:
                    self._stop()
                    trial = self._try(len(self.record.trials))
                except _TimeIsUpError:
                    break
                self.record.trials.append(trial)
                self._save()
                self._say(trial, trials)
            self.record.status = "finished"
            self._save()

    def _stop(self) -> None:
        """Look at signals, and at the clock: until there is one trial, time is never over."""
        self._stop_if_asked()
        late = self._minutes is not None and self._seconds() > 60 * self._minutes
        if late and self.record.trials:
            raise _TimeIsUpError

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self.began

    def _try(self, number: int) -> Trial:
        """One trial. What is wrong with its fields together, or diverges, is its result."""
        started = time.perf_counter()
        epochs = self.base.epochs
        proposal = Proposal(self.space, self.record.trials, self.base.seed, number, epochs)
        for twin in self.record.trials:
            if twin.fields == proposal.fields:
                known = {"number": number, "same_as": twin.number, "seconds": 0.0}
                return twin.model_copy(update=known)
        trial = Trial(number=number, fields=proposal.fields, state="finished")
        try:
            self._train(trial, proposal)
        except InputError as error:
            trial.state, trial.error = "failed", str(error)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            trial.state, trial.error = "failed", "there is not enough memory"
        trial.seconds = time.perf_counter() - started
        return trial

    def _train(self, trial: Trial, proposal: Proposal) -> None:
        recipe = self._recipe_of(trial)
        for event in self._bench.events(recipe):
            self._stop()
            if not isinstance(event, Milestone):
                continue
            best = self._bench.progress
            trial.curve.append(best.best_accuracy)
            trial.validation = Validation(
                n=self._bench.judged, accuracy=best.best_accuracy, loss=best.best_loss
            )
            # A solved head's path is soon gone, and its best strength may be the last.
            last = len(trial.curve) == recipe.epochs
            stops = not recipe.solves and not last
            if stops and proposal.hopeless(len(trial.curve) - 1, best.best_accuracy):
                trial.state = "pruned"
                return

    def _recipe_of(self, trial: Trial) -> Recipe:
        precise = self.base.with_fields({"precision": self.record.precision})
        return with_whole_paths(precise.with_fields(trial.fields))

    def _save(self) -> None:
        """The record first: what else the folder holds can be made of it."""
        self.record.seconds = self._seconds()
        write_record(self.folder, self.record)
        best = self.record.best()
        if best is not None and best.validation is not None:
            told = {
                "Command": self._train_command(),
                "Found": f"{self.result().caution}: trial {best.number}, validation accuracy"
                f" {best.validation.accuracy:.2%} of {best.validation.n:,} pictures.",
            }
            write_best(self.folder, self._recipe_of(best), told)

    def _train_command(self) -> str:
        return command_of(self.source.model_dump(), str(self.folder / BEST_FILE))

    def result(self) -> Search:
        return Search(self.folder, self.record, self._train_command())

    def _say(self, trial: Trial, trials: int | None) -> None:
        of = "" if trials is None else f"/{trials}"
        judged = trial.validation
        score = "no score" if judged is None else f"validation {judged.accuracy:.2%}"
        fields = "  ".join(f"{name}={value}" for name, value in trial.fields.items())
        marks = {"pruned": f"  stopped after epoch {len(trial.curve) - 1}"}
        mark = marks.get(trial.state, "")
        mark = f"  as trial {trial.same_as}" if trial.same_as is not None else mark
        if self.record.best() is trial:
            mark += "  best so far"
        if trial.error:
            mark += f"  failed: {trial.error.splitlines()[0]}"
        self.display.say(
            f"trial {trial.number} ({trial.number + 1}{of})  {score}  {fields}"
            f"  {trial.seconds:.1f} s{mark}"
        )

    def _stop_if_asked(self) -> None:
        if not self._caught:
            return
        self.record.status = "interrupted"
        self._save()
        best = self.record.best()
        found = "none finished yet"
        if best is not None and best.validation is not None:
            found = (
                f"best so far: trial {best.number}, validation {best.validation.accuracy:.2%}, in"
                f" {self.folder / BEST_FILE}"
            )
        raise InterruptedRunError(
            f"stopped after {len(self.record.trials)} trials; {found}. Go on with the same command:"
            f" {command_or('reslab.search')}",
            self._caught[0],
        )
