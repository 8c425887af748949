"""The search command."""

from typing import Annotated, Any

from cyclopts import Parameter

from reslab.cli.options import Data, Device, Json, Quiet, RecipeName, as_arguments, keywords
from reslab.cli.printing import print_columns, print_json
from reslab.pictures.data_source import DataSource
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe


def search(
    data: Data,
    /,
    *,
    trials: Annotated[int | None, Parameter(help="How many trials to make in all.")] = None,
    minutes: Annotated[
        float | None, Parameter(help="For how long to try in all, in minutes.")
    ] = None,
    over: Annotated[
        list[str] | None,
        Parameter(
            help="A field and what to try: NAME=LOW..HIGH, by logarithm from 10 times on, such as"
            " lr=0.001..0.1 or epochs=5..20; or NAME=A,B,C, such as optimizer.name=sgd,adamw. Can"
            " be given several times; what usually matters if not given.",
            negative=(),
        ),
    ] = None,
    recipe: RecipeName = None,
    out: Annotated[
        str | None,
        Parameter(help="The search's folder; searches/<recipe>-<data> if not given."),
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
    **options: Any,
) -> None:
    """Search for better fields of a recipe; what is judged is validation, never the test split.

    Every option of train's recipe and data holds for all trials. The same command goes on where a
    search was stopped, or further with more --trials or --minutes. It writes search.json, with
    every trial, and best.toml, the winner as a recipe to train.
    """
    chosen = None if recipe is None else load_recipe(recipe)
    changes = {
        name: value for name, value in options.items() if name not in DataSource.model_fields
    }
    (chosen or Recipe()).with_fields(changes)
    from reslab.searching.search import search as search_

    found = search_(
        data,
        trials=trials,
        minutes=minutes,
        over=over,
        recipe=chosen,
        out=out,
        device=device,
        quiet=quiet,
        **as_arguments(options),
    )
    if json:
        print_json(found.as_dict())
        return
    _print(found)


search.__annotations__["options"] = keywords(DataSource, Recipe)


def _print(found: Any) -> None:
    """The trials, best first, and what the winner is worth."""
    best = found.best
    names = list(best.fields)
    table = [["trial", "validation", "loss", "epochs", "seconds", "", *names]]
    order = {"finished": 0, "pruned": 1, "failed": 2}
    for trial in sorted(
        found.trials,
        key=lambda each: (
            order[each.state],
            -each.validation.accuracy if each.validation else 0.0,
            each.validation.loss if each.validation else 0.0,
            each.number,
        ),
    ):
        judged = trial.validation
        state = "best" if trial is best else "" if trial.state == "finished" else trial.state
        if trial.same_as is not None and trial is not best:
            state = f"as {trial.same_as}"
        table.append(
            [
                str(trial.number),
                "" if judged is None else f"{judged.accuracy:.2%}",
                "" if judged is None else f"{judged.loss:.4f}",
                str(len(trial.curve)),
                f"{trial.seconds:.1f}",
                state,
                *(str(trial.fields[name]) for name in names),
            ]
        )
    print_columns(table)
    print()
    print(
        f"winner      trial {best.number}, validation accuracy {best.validation.accuracy:.2%} of"
        f" {best.validation.n:,} pictures: {found.caution}"
    )
    print(f"recipe      {found.path / 'best.toml'}")
    print(f"train it    {found.train_command}")
    print("            scores it on the test split, once")
