"""docs/commands.md, generated from the commands' own help: `make docs` writes it."""

import io
import sys
from pathlib import Path

from rich.console import Console

from reslab.cli import app
from reslab.learning.recipe import FIELD_NAMES, field_values

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
COMMANDS = ("recipes", "train", "resume", "evaluate", "predict", "preview", "summary", "cache")


def help_of(command: str) -> str:
    text = io.StringIO()
    app.help_print([command], console=Console(file=text, width=100))
    return "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())


def reference() -> str:
    parts = ["# Commands\n\nGenerated from `reslab COMMAND --help` by `make docs`.\n"]
    for command in COMMANDS:
        parts.append(f"## reslab {command}\n\n```text\n{help_of(command)}\n```\n")
    parts.append("## Fields of a recipe\n\nEach can be set on the command line: `--NAME VALUE`.\n")
    rows = [f"| `{name}` | {field_values(name)} |" for name in FIELD_NAMES]
    parts.append("\n".join(["| field | values |", "| --- | --- |", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(reference(), "utf-8")
    else:
        print(reference())
