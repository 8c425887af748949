"""Errors a user can mend, and the one way a run is interrupted."""

from collections.abc import Sequence

SHOWN_PROBLEMS = 20


class InputError(ValueError):
    """The input or the command is wrong; the message says where and what to do (exit status 2).

    `problems` are listed one a line below the message, the first 20 of them.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        lines = [message, *(f"  {problem}" for problem in problems[:SHOWN_PROBLEMS])]
        if len(problems) > SHOWN_PROBLEMS:
            lines.append(f"  ... and {len(problems) - SHOWN_PROBLEMS:,} more of {len(problems):,}")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)


class NoPlacesError(InputError):
    """A network has no layer whose outputs are places of the picture, so it cannot be explained."""


class InterruptedRunError(Exception):
    """A signal stopped the run after its state was saved (exit status 128 + signal)."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def nearest(word: str, known: Sequence[str]) -> str:
    """'; did you mean ...?' for the closest known word, or the whole choice when it is short."""
    import difflib

    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; choose from {', '.join(known)}" if known else ""
