"""Commands that learn, or look at what there is to learn: recipes, train, resume, preview."""

from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from reslab.cli.options import (
    Data,
    Device,
    Json,
    Language,
    Quiet,
    RecipeName,
    as_arguments,
    flag,
    keywords,
)
from reslab.cli.printing import flush_what_is_read, print_json, print_run
from reslab.errors import InputError
from reslab.pictures.data_source import DataSource
from reslab.process import leads, refuse_several, say_and_leave, telling
from reslab.recipes.files import load_recipe, recipe_names, recipe_text
from reslab.recipes.recipe import Recipe

Minutes = Annotated[
    float | None,
    Parameter(
        help="Train by the clock: the best model in this time, from the command's start to its end."
    ),
]
FindRate = Annotated[
    bool,
    flag(
        "Train nothing: try learning rates in a short ramp on training pictures, write lr.csv and"
        " lr.png, and suggest one."
    ),
]
PlanFile = Annotated[
    str | None, Parameter(help="Repeat the plan of a run that was trained so: its plan.toml.")
]


def recipes(
    name: Annotated[str | None, Parameter(help="A recipe; all are listed without it.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the recipes, or show one with its expected result."""
    if name is not None and not json:
        print(recipe_text(name), end="")
        return
    found = []
    for each in recipe_names() if name is None else [name]:
        comment = [line[2:] for line in recipe_text(each).splitlines() if line.startswith("# ")]
        entry: dict[str, Any] = {"name": each, "title": comment[0], "comment": "\n".join(comment)}
        for role in ("Command", "Published", "Expected"):
            lines = [line for line in comment if line.startswith(f"{role}: ")]
            entry[role.lower()] = lines[0].removeprefix(f"{role}: ") if lines else None
        found.append(entry | {"recipe": load_recipe(each).model_dump(mode="json")})
    if json:
        print_json(found if name is None else found[0])
        return
    for entry in found:
        print(f"{entry['name']:18}{entry['title']}")
        print(f"{'':18}{entry['command']}")
        print(f"{'':18}{entry['published'] or entry['expected']}")


def train(
    data: Data,
    /,
    *,
    recipe: RecipeName = None,
    out: Annotated[
        str | None,
        Parameter(help="The run folder; runs/<recipe>-<data>-<number> if not given."),
    ] = None,
    device: Device = "auto",
    watch_test: Annotated[
        bool, flag("Score the test split after each epoch too. It chooses nothing.")
    ] = False,
    overwrite: Annotated[bool, flag("Replace the run that --out holds.")] = False,
    language: Language = None,
    tensorboard: Annotated[
        bool, flag("Write TensorBoard's event files too, live, into the run's folder tensorboard.")
    ] = False,
    minutes: Minutes = None,
    plan: PlanFile = None,
    find_lr: FindRate = False,
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Train on labelled pictures, write a run folder, and score once on the test split.

    Any other field of a recipe can be set by its dotted name too, such as --optimizer.momentum 0.9
    or --augment.flip-horizontal 0.5; `reslab recipes NAME` shows the fields.
    """
    arguments = as_arguments(options)
    chosen = _recipe(recipe, options)
    if find_lr:
        refuse_several("--find-lr")
        if watch_test or overwrite or tensorboard or language or minutes is not None or plan:
            raise InputError(
                "--find-lr trains nothing: --watch-test, --overwrite, --language, --tensorboard,"
                " --minutes and --plan have no part in it"
            )
        _find_lr(data, json, recipe=chosen, out=out, device=device, quiet=quiet, **arguments)
        return
    from reslab.training.training import train as train_

    with telling(partial(print_run, as_json=json)):
        run = train_(
            data,
            recipe=chosen,
            out=out,
            device=device,
            watch_test=watch_test,
            overwrite=overwrite,
            language=language,
            tensorboard=tensorboard,
            minutes=minutes,
            plan=plan,
            quiet=quiet,
            **arguments,
        )
    _say_run(run, json)


def _say_run(run: Any, as_json: bool) -> None:
    def last_words() -> int:
        if leads():
            print_run(run, as_json)
            flush_what_is_read()
        return 0

    say_and_leave(last_words)


def _find_lr(data: str, as_json: bool, **arguments: Any) -> None:
    from reslab.training.rate_test import find_lr

    found = find_lr(data, **arguments)
    if as_json:
        print_json(found.as_dict())
        return
    print(f"suggested   --lr {found.suggested:g}, after {len(found.rates)} steps")
    print(f"chart       {found.chart}")
    print(f"steps       {found.csv}")


train.__annotations__["options"] = keywords(DataSource, Recipe)


def resume(
    run: Annotated[str, Parameter(help="The run folder.")],
    /,
    *,
    epochs: Annotated[int | None, Parameter(help="Train to this many epochs in all.")] = None,
    minutes: Annotated[
        float | None,
        Parameter(
            help="Of a run by the clock: how long to go on from now; the time it had left if not"
            " given."
        ),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Go on with a run exactly where it stopped, or further."""
    from reslab.training.training import resume as resume_

    with telling(partial(print_run, as_json=json)):
        run_ = resume_(run, epochs=epochs, minutes=minutes, device=device, quiet=quiet)
    _say_run(run_, json)


def preview(
    data: Data,
    /,
    *,
    recipe: RecipeName = None,
    out: Annotated[str, Parameter(help="The PNG file to write.")] = "preview.png",
    json: Json = False,
    **options: Any,
) -> None:
    """Draw a sheet of samples as a network would be trained on them.

    Fields of the recipe can be set as for train, such as --augment.rotate 45.
    """
    chosen = _recipe(recipe, options)
    from reslab.training.preview import preview as preview_

    found = preview_(data, out, recipe=chosen, **as_arguments(options))
    if json:
        print_json(found)
        return
    for name, count in found["counts"].items():
        print(f"{name:12}{count:,}")
    print(f"{'classes':12}{', '.join(found['classes'])}")
    for note in found["notes"]:
        print(f"note: {note}")
    for problem in found["left_out"]:
        print(f"left out: {problem}")
    print(f"{'sheet':12}{found['path']}")


preview.__annotations__["options"] = keywords(DataSource, Recipe)


def _recipe(name: str | None, options: dict[str, Any]) -> Recipe | None:
    """The recipe asked for; what is wrong with it or a field is said before torch is imported."""
    chosen = None if name is None else load_recipe(name)
    data = DataSource.model_fields
    changes = {name: value for name, value in options.items() if name not in data}
    (chosen or Recipe()).with_fields(changes)
    return chosen
