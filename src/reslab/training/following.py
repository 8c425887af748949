"""What every training has in common while it learns: shown, recorded, kept and saved."""

from collections.abc import Generator, Iterable

from reslab.judging.sheet import draw_training_sheet
from reslab.learning.pace import Pace
from reslab.learning.state import Milestone, Step
from reslab.run.checkpoint import CheckpointClock
from reslab.training.event_files import event_files
from reslab.training.session import Session


def followed(
    session: Session, events: Iterable[Step | Milestone], steps: int, pace: Pace | None = None
) -> Generator[Step | Milestone]:
    """The events again, each after it is shown, recorded, and its state saved where that is due.

    steps: how many an epoch has. pace: says when it ends, if not after the recipe's epochs.
    """
    state, display, recipe = session.state, session.display, session.prepared.recipe
    progress = state.progress
    clock = CheckpointClock(recipe.checkpoint_every)
    done = progress.epoch * steps + progress.step

    def epochs() -> float:
        return recipe.epochs if pace is None else pace.end / steps

    with display.training(epochs, steps, done), event_files(session.run) as put:
        for event in events:
            if isinstance(event, Milestone):
                session.append_history(event.record)
                put(event.record)
                display.milestone(event, progress.epoch - 1)
            else:
                display.step(event)
            draw_preview(session)
            ended = isinstance(event, Milestone)
            best = isinstance(event, Milestone) and event.best
            # A resume by the clock, or on another number of threads, may not come to the same
            # milestone again; and best weights are to be of an epoch that the run has.
            if clock.due(ended) or best or (ended and session.stage is not None):
                state.refuse_diverged()
                session.save()
            if best:
                # After the state, from which a resume can keep them: see `Session.restore`.
                session.keep_best()
            yield event


def draw_preview(session: Session) -> None:
    """Draw the sheet if it is not there yet: after the first step, which it would hold up."""
    path = session.run.path / "preview.png"
    if session.run.writes and not path.exists():
        draw_training_sheet(session.prepared.pixels, session.prepared.pictures.classes, path)
