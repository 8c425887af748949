"""The command line: parse, call, print."""

import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from cyclopts import App, CycloptsError

import reslab
from reslab.cli.printing import flush_what_is_read, is_unread
from reslab.errors import InputError, InterruptedRunError
from reslab.process import refuse_several, running_command, say_and_leave, speaks
from reslab.run.interruption import raising_signals

app = App(
    name="reslab",
    version=reslab.__version__,
    help="Residual networks for pictures: train, test and use them.",
    help_format="plaintext",
)
COMMANDS = {  # the module of each, which is imported when the command is asked for
    "recipes": "learn",
    "train": "learn",
    "resume": "learn",
    "preview": "learn",
    "check": "check",
    "search": "search",
    "evaluate": "use",
    "predict": "predict",
    "explain": "use",
    "summary": "use",
    "report": "look",
    "compare": "look",
    "runs": "look",
    "export": "put",
    "serve": "serve",
    "cache": "cache",
}
for _name, _module in COMMANDS.items():
    app.command(f"reslab.cli.{_module}:{_name}", name=_name)


SHARED = ("train", "resume", "predict")  # by several processes under torchrun


def run_command(tokens: Sequence[str]) -> None:
    """Run one command; what goes wrong is raised."""
    if tokens and tokens[0] not in SHARED:
        refuse_several(f"reslab {tokens[0]}")
    if not tokens or tokens[0] in ("--help", "-h"):
        for name in COMMANDS:
            app[name]  # imported, for what it says of itself
    command, bound, _ = app.parse_args(list(tokens), exit_on_error=False, print_error=False)
    command(*bound.args, **bound.kwargs)


def main() -> None:
    """The `reslab` command: every error of the user's is one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a path may hold bytes that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        with raising_signals(), running_command(sys.argv[1:]):
            run_command(sys.argv[1:])
        flush_what_is_read()
    except (CycloptsError, InputError) as error:
        _fail(str(error), 2)
    except (MemoryError, RuntimeError) as error:
        from reslab.learning.device import lacks_memory

        if not lacks_memory(error):
            raise
        _fail("there is not enough memory; what was saved before is kept", 2)
    except OSError as error:  # a full disk, a folder that may not be written to
        if is_unread(error):
            flush_what_is_read()
            sys.exit(0)
        named = f"{error.filename}: " if error.filename else ""
        _fail(f"{named}{error.strerror or error}", 2)
    except InterruptedRunError as stopped:
        _fail(str(stopped), 128 + stopped.signal_number, word="stopped")
    except KeyboardInterrupt as stopped:
        number = getattr(stopped, "signal_number", signal.SIGINT)
        _fail("nothing is lost that was saved before", 128 + number, word="stopped")


def _fail(message: str, status: int, word: str = "error") -> None:
    with suppress(OSError):  # which is told of already, or matters less
        flush_what_is_read()

    def last_words() -> int:
        with suppress(OSError):  # the terminal may be gone
            if speaks():
                print(f"reslab: {word}: {message}", file=sys.stderr, flush=True)
        return status

    sys.exit(say_and_leave(last_words))
