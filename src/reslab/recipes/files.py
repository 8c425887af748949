"""Recipes as TOML files: the built-in ones and the user's."""

import json
import re
import tomllib
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from reslab.disk import read_regular, user_path
from reslab.errors import InputError, nearest
from reslab.recipes.fields import messages
from reslab.recipes.recipe import FIELDS, Recipe

_LARGEST = 1 << 20  # bytes of a recipe


def parse_recipe(text: str, where: str) -> Recipe:
    """A recipe from TOML. Raises InputError naming file, line and field of each problem."""
    try:
        data = tomllib.loads(text)
        written = json.dumps(data, default=str)
    except (ValueError, RecursionError) as error:  # too deep, or a number of too many digits
        line = re.search(r"at line (\d+)", str(error))
        raise InputError(f"{where}:{line[1] if line else 1}: not valid TOML ({error})") from None
    try:
        # JSON in strict mode: an array is a tuple, and the text "3" is no number.
        return Recipe.model_validate_json(written, strict=True)
    except ValidationError as error:
        lines = _lines_of_fields(text)
        problems = []
        for message in messages(error, FIELDS):
            field = message.split(" ")[0].rstrip(":")
            problems.append(f"{where}:{lines.get(field, 1)}: {message}")
        raise InputError("the recipe has problems:", problems) from None


def _lines_of_fields(text: str) -> dict[str, int]:
    """The line on which each dotted field, or its section, stands in a TOML text."""
    found, section = {}, ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([\w.\-]+)\s*\]+", line):
            section = header[1] + "."
            found[header[1]] = number
        elif field := re.match(r"\s*([\w.\-]+)\s*=", line):
            found[section + field[1]] = number
    return found


def recipe_names() -> tuple[str, ...]:
    folder = resources.files("reslab.recipes")
    return tuple(sorted(item.name[:-5] for item in folder.iterdir() if item.name.endswith(".toml")))


def recipe_text(name: str) -> str:
    """The TOML file of a built-in recipe, with the comment that says what to expect of it."""
    if name not in recipe_names():
        raise InputError(f"no recipe {name!r}{nearest(name, recipe_names())}")
    return (resources.files("reslab.recipes") / f"{name}.toml").read_text("utf-8")


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by built-in name or TOML file."""
    text = str(name)
    path = user_path(text)
    if text in recipe_names() and not path.is_file():
        return parse_recipe(recipe_text(text), f"recipe {text}")
    if path.suffix == ".toml" or path.is_file():
        if not path.is_file():
            raise InputError(f"{path}: no such recipe file")
        try:
            data = read_regular(path, _LARGEST)
            return parse_recipe(data.decode("utf-8-sig"), str(path))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise InputError(f"{path}:{line}: not UTF-8; save the recipe as UTF-8") from None
    raise InputError(f"no recipe {text!r}{nearest(text, recipe_names())}")
