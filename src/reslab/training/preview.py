"""A look at the data before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reslab.disk import refuse_foreign, user_path
from reslab.errors import InputError
from reslab.judging.charts import is_our_png
from reslab.judging.sheet import SHOWN, draw_training_sheet, each_class_in_turn
from reslab.options import refuse_unknown, taken, taking
from reslab.pictures.batches import TrainingBatches
from reslab.pictures.data_source import DataSource
from reslab.pictures.splitting import complete_splits, split_notes
from reslab.pictures.store import PixelStore
from reslab.recipes.files import load_recipe
from reslab.recipes.recipe import Recipe, changes_of
from reslab.training.inputs import (
    complete_inputs,
    default_recipe,
    preprocessing_of,
    training_target,
)


@taking(DataSource, Recipe)
def preview(
    data: str | Path,
    out: str | Path = "preview.png",
    *,
    recipe: str | Path | Recipe | None = None,
    fields: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Draw a sheet of samples as a network would be trained on them.

    Returns the sheet's path, the classes, the counts of the splits and what is to be noted.
    """
    refuse_unknown(options, DataSource, Recipe)
    path = user_path(out)
    if path.suffix.lower() != ".png":
        raise InputError(f"--out {out}: the sheet is a PNG file; name one, such as preview.png")
    refuse_foreign(path, "--out", is_our_png, "a sheet of reslab's")
    chosen = recipe if isinstance(recipe, Recipe | None) else load_recipe(recipe)
    changes = changes_of(taken(options, Recipe), fields)
    (chosen or Recipe()).with_fields(changes)
    pictures = DataSource.named(data, taken(options, DataSource)).read()
    chosen = (chosen or default_recipe(pictures)).with_fields(changes)
    pictures, _ = complete_splits(pictures, chosen.splitting)
    chosen = complete_inputs(chosen, pictures)
    preprocessing = preprocessing_of(chosen)
    train = pictures.splits["train"]
    store = PixelStore(
        train.take(each_class_in_turn(train.labels, SHOWN)),
        training_target(preprocessing, chosen.training_augmentation),
    )
    batches = TrainingBatches(
        store,
        preprocessing,
        chosen.training_augmentation,
        batch_size=SHOWN,
        shuffle=False,
        seed=chosen.augmentation_seed,
    )
    draw_training_sheet(batches, pictures.classes, path)
    return {
        "path": str(path),
        "data": pictures.name,
        "recipe": chosen.name,
        "classes": list(pictures.classes),
        "counts": pictures.counts(),
        "preprocessing": preprocessing.model_dump(mode="json"),
        "notes": [*pictures.notes, *split_notes(pictures)],
        "left_out": list(pictures.left_out),
    }
