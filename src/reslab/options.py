"""Options that are written once: fields of a model, for Python, the command line and the documents.

A model's field with a docstring below it is the whole description of an option. `taking` gives a
function the fields as keywords; `reslab.cli.options` makes parameters of a command of them.
"""

import inspect
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reslab.errors import nearest

Function = TypeVar("Function", bound=Callable[..., Any])


def keywords_of(model: type[BaseModel]) -> dict[str, Any]:
    """The names by which Python and the command line take a model's fields, and their types.

    A field that is a model itself has none, and neither has one marked `positional`. A model may
    add to them, or name some otherwise, by `SHORT_NAMES`: short name to dotted name.
    """
    short: Mapping[str, str] = getattr(model, "SHORT_NAMES", {})
    found = {
        name: _type_of(info)
        for name, info in model.model_fields.items()
        if not _is_model(info.annotation) and "positional" not in info.metadata
    }
    return found | {name: _type_of(_field(model, dotted)) for name, dotted in short.items()}


def help_of(model: type[BaseModel], name: str) -> str:
    """What a model says of a field, by its short or dotted name, on one line."""
    dotted = getattr(model, "SHORT_NAMES", {}).get(name, name)
    return " ".join((_field(model, dotted).description or "").split())


def taken(options: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Those of the options that are a model's and were given; None leaves one as it is."""
    known = keywords_of(model)
    return {name: value for name, value in options.items() if name in known and value is not None}


def taking(*models: type[BaseModel]) -> Callable[[Function], Function]:
    """Let a function's `**options` be the fields of these models: no others, each documented.

    `help`, an interactive shell and `reslab/__init__.pyi` show each with its type and its text.
    """
    known = {name: kind for model in models for name, kind in keywords_of(model).items()}
    texts = {name: help_of(model, name) for model in models for name in keywords_of(model)}

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
            for name, kind in known.items()
        ]
        # mypy knows a function by its type, which has no signature that could be set.
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        lines = "\n".join(
            textwrap.fill(f"{name}: {text}", 96, initial_indent=4 * " ", subsequent_indent=8 * " ")
            for name, text in texts.items()
        )
        function.__doc__ = (
            f"{inspect.getdoc(function)}\n\nOptions, as they are if not given:\n{lines}"
        )
        return function

    return decorate


def refuse_unknown(options: Mapping[str, Any], *models: type[BaseModel]) -> None:
    """Raise TypeError, as Python does, for a keyword that is no option."""
    known = [name for model in models for name in keywords_of(model)]
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}{nearest(name, known)}")


def _field(model: Any, dotted: str) -> FieldInfo:
    *path, last = dotted.split(".")
    for step in path:
        model = model.model_fields[step].annotation
    found: FieldInfo = model.model_fields[last]
    return found


def _type_of(field: FieldInfo) -> Any:
    return str | Path if "path" in field.metadata else _plain(field.annotation)


def _plain(annotation: Any) -> Any:
    """A type as people write it: without what pydantic checks, and without None."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return str | Path if "path" in members else _plain(members[0])
    if origin in (typing.Union, types.UnionType):
        return reduce(or_, (_plain(one) for one in members if one is not type(None)))
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
