"""Options of commands: those that several have, and parameters made of models' fields."""

from typing import Annotated, Any, TypedDict, Unpack

from cyclopts import Group, Parameter
from pydantic import BaseModel

from reslab.options import help_of, keywords_of
from reslab.pictures.data_source import DataSource
from reslab.recipes.fields import choices_of
from reslab.recipes.recipe import FIELDS, Recipe


def flag(text: str) -> Parameter:
    """A switch that is off if it is not given."""
    return Parameter(help=text, negative=(), show_default=False)


Data = Annotated[str, Parameter(help=help_of(DataSource, "data"))]
Model = Annotated[str, Parameter(help="A run folder, its model file, or an ONNX export.")]
RecipeName = Annotated[
    str | None,
    Parameter(help="A recipe's name or TOML file; chosen by the pictures' size if not given."),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda, cuda:N or mps.")]
Language = Annotated[
    str | None,
    Parameter(help="Which language the page opens in, en or zh; the system's if not given."),
]
Quiet = Annotated[bool, flag("Show no progress.")]
Json = Annotated[bool, flag("Print JSON, the result last on standard output.")]

UnknownBelow = Annotated[
    float | None,
    Parameter(help="Call a picture unknown whose likeliest class has less than this."),
]
Coverage = Annotated[
    float | None,
    Parameter(
        help="Name a set of classes for each picture that holds its own with this chance, such as"
        " 0.95, for pictures of the kind that the validation split holds."
    ),
]
Raw = Annotated[
    bool, flag("Probabilities as the network gives them, without the fitted temperature.")
]

_RECIPE = Group("Fields of the recipe", sort_key=1)


def _data_options() -> dict[str, Any]:
    return {
        name: Annotated[
            bool if kind is bool else str,
            Parameter(help=help_of(DataSource, name), negative=(), show_default=False),
        ]
        for name, kind in keywords_of(DataSource).items()
    }


def _recipe_options() -> dict[str, Any]:
    """Every field as text, which the recipe reads by itself; `--help` shows those of no section."""
    dotted_by_short = Recipe.SHORT_NAMES
    found = {}
    for name in [*keywords_of(Recipe), *(name for name in FIELDS if "." in name)]:
        dotted = dotted_by_short.get(name, name)
        if name in dotted_by_short.values():
            continue
        names = [f"--{each.replace('_', '-')}" for each in dict.fromkeys((name, dotted))]
        shown = "." not in name
        choices = choices_of(FIELDS[dotted])
        parameter = Parameter(
            name=[*names, *(() if shown else (f"--{name}",))],
            help=help_of(Recipe, name) + (f" [{', '.join(choices)}]" if choices else ""),
            group=_RECIPE,
            show=shown,
        )
        found[name] = Annotated[str, parameter]
    return found


def keywords(*models: type[BaseModel]) -> Any:
    """The annotation of a command's `**options` that takes the fields of these models."""
    makers = {DataSource: _data_options, Recipe: _recipe_options}
    fields = {name: kind for model in models for name, kind in makers[model]().items()}
    # mypy follows a TypedDict that is written out, and this one is made of the models' fields.
    return Unpack[TypedDict("Options", fields, total=False)]  # type: ignore[operator]


def as_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a command as `reslab.train` takes them: dotted fields apart."""
    fields = {name: value for name, value in options.items() if "." in name}
    return {name: value for name, value in options.items() if "." not in name} | {"fields": fields}
