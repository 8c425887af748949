"""Dotted names of a model's fields: listed, read from text, and named in messages."""

import types
import typing
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from reslab.errors import nearest

Fields = dict[str, Any]  # dotted name: annotation


def fields_of(model: type[BaseModel], prefix: str = "") -> Fields:
    """Dotted names of the settable fields, with their types."""
    found: Fields = {}
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= fields_of(info.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = info.annotation
    return found


def from_text(text: str, annotation: Any) -> Any:
    """Text as it comes from the command line, split at commas where the field holds several."""
    if any(typing.get_origin(member) is tuple for member in _members(annotation)):
        return [part.strip() for part in text.strip("[]() ").split(",")]
    if text.isdecimal() and text in choices_of(annotation):
        return int(text)
    return text


def _members(annotation: Any) -> list[Any]:
    """The types that a field may hold: unions and annotations opened."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [one for part in typing.get_args(annotation) for one in _members(part)]
    return [annotation]


def number_kind(annotation: Any) -> type[int] | type[float] | None:
    """int or float where a field holds a number of any size, None where it holds no such."""
    members = _members(annotation)
    return next((kind for kind in (float, int) if kind in members), None)


def messages(error: ValidationError, fields: Fields) -> list[str]:
    """One line a problem: the dotted field, what it holds, what it may hold."""
    lines = {}
    for problem in error.errors():
        # A union or a tuple adds its members' names behind the field's own.
        place = [str(part) for part in problem["loc"]]
        while (
            len(place) > 1
            and ".".join(place) not in fields
            and problem["type"] != "extra_forbidden"
        ):
            place.pop()
        name = ".".join(place) or "recipe"
        given = problem["input"]
        if problem["type"] == "extra_forbidden":
            lines[name] = f"{name} is no field of a recipe{nearest(name, tuple(fields))}"
        elif problem["type"] == "literal_error":
            choices = choices_of(fields[name])
            lines[name] = f"{name} = {given!r}: not a choice{nearest(str(given), choices)}"
        elif isinstance(given, dict) and name not in fields:
            lines[name] = f"{name}: {problem['msg'].removeprefix('Value error, ')}"
        else:
            text = problem["msg"].removeprefix("Value error, ")
            text = text.removeprefix("Input should be ").replace("a valid ", "")
            lines[name] = f"{name} = {given!r}: should be {text}"
    return list(lines.values())


def choices_of(annotation: Any) -> tuple[str, ...]:
    """What a field may hold, if that is a few words."""
    literals = [one for one in _members(annotation) if typing.get_origin(one) is Literal]
    return tuple(str(choice) for one in literals for choice in typing.get_args(one))


def values_of(name: str, annotation: Any) -> str:
    """What a field may hold, in words: for the reference."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if choices := choices_of(annotation):
        return ", ".join(choices)
    members = _members(annotation)
    if any(typing.get_origin(member) is tuple for member in members):
        return "height,width" if name.endswith("size") else "a number a channel"
    return next(words[member] for member in members if member in words)
